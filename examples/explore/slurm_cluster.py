"""Workers of Slurm for ``systola explore --scheduler``: prints the address, and waits."""

import argparse
import signal

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=8, help="jobs, one core each")
    parser.add_argument("--queue", help="partition")
    parser.add_argument("--memory", default="4GB", help="of a job")
    parser.add_argument("--time", default="04:00:00", help="of a job")
    options = parser.parse_args()

    from dask_jobqueue import SLURMCluster

    with SLURMCluster(queue=options.queue, cores=1, processes=1, memory=options.memory,
                      walltime=options.time,
                      job_script_prologue=["export OPENBLAS_NUM_THREADS=1"]) as cluster:
        cluster.scale(jobs=options.workers)
        print(cluster.scheduler_address, flush=True)
        signal.pause()
