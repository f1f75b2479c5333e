"""Workers that share the parts of a job: processes of this machine, or of a Dask scheduler."""

import contextlib
import hashlib
import time
import warnings
from collections import Counter
from functools import cache

from systola.files.bounded import shorten, shown
from systola.files.cache import sources_of

__all__ = ["Cluster", "ClusterError"]

_CONNECT_SECONDS = 10
_IDLE_SECONDS = 60
"""How long a job waits for a worker when there is none."""

_POLL_SECONDS = 5
_AHEAD = 2
"""Parts that are given out for each thread of the workers; more would only fill memory."""


class ClusterError(ValueError):
    """Workers cannot be reached, differ from this installation, or died of a part."""


class Cluster:
    """Workers for `map`, as a context manager.

    A worker that dies costs the parts that it had: others compute them again. Dask tries a part
    on four workers before it gives up.

    Parameters
    ----------
    workers : int, optional
        Processes to start on this machine, each with one thread.
    scheduler : str, optional
        Address of a Dask scheduler, as ``tcp://host:8786``, whose workers have the same systola.
        Whoever can reach a scheduler can run code on its workers: Dask's documentation says how
        to protect one. One of `workers` and `scheduler` is needed.

    Raises
    ------
    ClusterError
        If the scheduler cannot be reached.
    ModuleNotFoundError
        Without Dask, which the extra ``cluster`` brings.
    """

    def __init__(self, *, workers=None, scheduler=None):
        if (workers is None) == (scheduler is None):
            raise ValueError("a cluster needs either workers or a scheduler")
        self.workers, self.scheduler = workers, scheduler
        self._client, self._stack = None, contextlib.ExitStack()

    def __enter__(self):
        import distributed

        try:
            if self.scheduler is None:
                # Any port for Dask's pages: the usual one may be taken by another cluster.
                address = self._stack.enter_context(distributed.LocalCluster(
                    n_workers=self.workers, threads_per_worker=1,
                    dashboard_address="127.0.0.1:0"))
            else:
                address = self.scheduler
            self._client = self._stack.enter_context(distributed.Client(
                address, timeout=_CONNECT_SECONDS))
        except (OSError, ValueError, RuntimeError) as error:
            self._stack.close()
            what = (f"{self.workers} workers cannot be started" if self.scheduler is None
                    else f"scheduler {shown(self.scheduler)} cannot be reached")
            raise ClusterError(f"{what}: {shorten(error)}") from None
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError, TimeoutError):  # a scheduler that is gone already
            self._stack.close()

    def map(self, function, shared, tasks, *, done=None, each=None, lost=None):
        """Return what ``function(shared, *task)`` gives for every task, in their order.

        Parameters
        ----------
        function : callable
            A function of a module of systola, without side effects: it may run twice.
        shared : object
            What all tasks need; each worker gets one copy.
        tasks : iterable of tuple
            Taken as workers get free, so that they need not all be in memory.
        done : callable, optional
            Called with the number of tasks that are done.
        each : callable, optional
            Called as ``each(index, result)`` when a task is done, in any order; as many results
            as there are tasks are then not in memory, and None is returned.
        lost : callable, optional
            Takes a line that says so, and returns the result of a task that ended every worker
            that took it.

        Raises
        ------
        ClusterError
            If there are no workers, one has another version of systola, or a task kills them all
            and there is no `lost`.
        Exception
            What the first task that failed raised; the others are cancelled.
        """
        from distributed import CancelledError, KilledWorker
        from distributed.protocol.pickle import dumps

        tasks, running, results, failed, count = enumerate(tasks), {}, {}, None, 0
        idle = time.monotonic()
        version = _version(function.__module__)
        with warnings.catch_warnings():
            # Shared data is large, and part of the graph so that it outlives every worker.
            warnings.filterwarnings("ignore", "Sending large graph")
            # As bytes, for what a worker made of it might not go to another one any more.
            common = self._client.submit(_same, _Packed(dumps(shared)), pure=False)
            try:
                while True:
                    threads = self._client.nthreads()
                    # Left to itself, Dask would keep the tasks where the shared data is.
                    places = _places(threads, [place for _, place in running.values()])
                    for place, (index, task) in zip(places, tasks, strict=False):
                        running[self._client.submit(
                            _run, version, function, common, *task, pure=False, workers=[place],
                            allow_other_workers=True)] = index, place
                    if places and not running:
                        return None if each else [results[index] for index in sorted(results)]
                    ended = self._ended(running)
                    if threads or ended:
                        idle = time.monotonic()
                    elif time.monotonic() - idle > _IDLE_SECONDS:
                        raise ClusterError(f"a scheduler must have workers; that of "
                                           f"{shown(self._client.scheduler.address)} has had none "
                                           f"for {_IDLE_SECONDS} seconds")
                    for future in ended:
                        failed = future.exception()
                        if lost and isinstance(failed, KilledWorker):
                            result, failed = lost(_killed(failed)), None
                        elif failed is not None:
                            raise failed
                        else:
                            result = future.result()
                        index, count = running.pop(future)[0], count + 1
                        if each:
                            each(index, result)
                        else:
                            results[index] = result
                    if done and ended:
                        done(count)
            except KilledWorker as error:
                raise ClusterError(_killed(error)) from None
            except (CancelledError, OSError) as error:
                if error is failed:
                    raise
                raise ClusterError(f"the scheduler ended before the work: "
                                   f"{shorten(error)}") from None
            finally:
                with contextlib.suppress(OSError, TimeoutError, CancelledError):
                    self._client.cancel([common, *running])

    def _ended(self, running):
        """Return those of the tasks that have ended; waits a while for the first."""
        from distributed import wait

        if not running:
            time.sleep(_POLL_SECONDS)
            return ()
        try:
            return wait(list(running), _POLL_SECONDS, "FIRST_COMPLETED").done
        except TimeoutError:
            return ()


def _killed(error):
    return (f"a part of the work ended every worker that took it (out of memory?): "
            f"{shorten(error)}")


def _places(threads, taken):
    """Return the workers that parts are to be given to, so that each has as many a thread.

    Parameters
    ----------
    threads : dict
        Threads of each worker.
    taken : list
        The worker of every part that is given out.
    """
    counts, places = Counter(taken), []
    while threads:
        place = min(threads, key=lambda place: counts[place] / threads[place])
        if counts[place] >= _AHEAD * threads[place]:
            break
        counts[place] += 1
        places.append(place)
    return places


class _Packed:
    """Shared data on its way; a worker unpacks it once."""

    def __init__(self, data):
        self.data, self._value = data, None

    def __getstate__(self):
        return {"data": self.data, "_value": None}

    def value(self):
        from distributed.protocol.pickle import loads

        if self._value is None:
            self._value = (loads(self.data),)
        return self._value[0]


def _same(value):
    return value


def _run(version, function, shared, *task):
    """Run a task on a worker, unless that has another version of what it runs."""
    if _version(function.__module__) != version:
        from distributed import get_worker

        raise ClusterError(f"every worker must have the same version of systola as this "
                           f"installation, which {get_worker().address} has not")
    return function(shared.value(), *task)


@cache
def _version(module):
    digest = hashlib.sha256()
    for source in sources_of(module):
        digest.update(len(source).to_bytes(8, "little") + source)
    return digest.hexdigest()
