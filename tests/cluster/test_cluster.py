"""Jobs in parts on workers: results of one process, whatever happens to a worker."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from systola.cli.main import main
from systola.cluster import cluster as module
from systola.cluster.cluster import Cluster, ClusterError
from systola.model.data.images import load_data, open_images
from systola.model.evaluation import accuracy
from systola.model.graph.graph_file import save_network
from systola.sim.runs.random_cases import random_case
from systola.sim.runs.simulate import simulate
from systola.sim.soak.program_runs import CONFIGS, soak_programs

pytestmark = pytest.mark.slow  # processes take seconds to start


@pytest.fixture(scope="module")
def two():
    with Cluster(workers=2) as workers:
        yield workers


@pytest.fixture(scope="module")
def networks():
    graph = accuracy.open_float("digits")
    training = open_images("digits", "train", graph=graph).thinned(200)
    return graph, accuracy.quantized("digits", graph, training, method="minmax")


def processes():
    """Return the workers of all clusters of this process."""
    return {child for child in psutil.Process().children(recursive=True)
            if any("spawn_main" in part for part in child.cmdline())}


# --- Any work ---


def work(shared, index, folder=None, dies=None):
    """Return a number, with a trace in a folder; the worker dies of part 5, once or always."""
    if folder is not None:
        died = Path(folder) / "died"
        if index == 5 and (dies == "always" or (dies and not died.exists())):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (Path(folder) / f"{index} {time.monotonic_ns()}").touch()
    if isinstance(shared, type):
        raise shared(f"part {index} is wrong")
    return shared + index


class Opened:
    """Large, and with an open file after its first use, which cannot go elsewhere."""

    def __init__(self, path):
        self.path, self.file, self.array = path, None, np.zeros(10**7)

    def read(self):
        self.file = self.file or open(self.path)
        self.file.seek(0)
        return self.file.read()


def process_of(shared, index, folder, wanted):
    """Return the worker's process, once as many workers as wanted have had a part."""
    assert shared.read() == "content"
    (folder / f"{os.getpid()}").touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < wanted:
        if time.monotonic() > end:
            raise ClusterError(f"part {index} has not seen {wanted} workers")
        time.sleep(0.01)
    return os.getpid()


def test_results_are_in_order_and_tasks_are_taken_as_needed(two):
    taken, done = [], []

    def tasks():
        for index in range(40):
            taken.append(len(done) and done[-1])
            yield (index,)

    assert two.map(work, 100, tasks(), done=done.append) == list(range(100, 140))
    assert done[-1] == 40
    assert done == sorted(done)
    # No more than four parts are given out beside those that are done.
    assert all(index < before + 5 for index, before in enumerate(taken))
    assert two.map(work, 1, []) == []


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_what_a_task_raises_is_raised(two, kind):
    with pytest.raises(kind, match=r"^part \d is wrong$"):
        two.map(work, kind, [(index,) for index in range(9)])
    assert two.map(work, 1, [(1,)]) == [2]


def test_a_worker_that_dies_costs_its_parts_only(tmp_path):
    with Cluster(workers=2) as workers:
        tasks = [(index, str(tmp_path), "once") for index in range(60)]
        assert workers.map(work, 0, tasks) == list(range(60))
    runs = [int(path.name.split()[0]) for path in tmp_path.iterdir() if path.name != "died"]
    assert (tmp_path / "died").exists()
    assert set(runs) == set(range(60))
    assert len(runs) < 60 + 30


def test_every_worker_gets_its_share(tmp_path):
    """Though what all need is large, on one of them at first, and bound to it once used."""
    (tmp_path / "file").write_text("content")
    traces, others, killed = tmp_path / "traces", processes(), []
    traces.mkdir()
    with Cluster(workers=2) as workers:
        submit, asked = workers._client.submit, []

        def kill(done):
            if done >= 20 and not killed:  # done may pass over 20
                killed.append((processes() - others).pop())
                killed[0].kill()

        def noted(function, *arguments, **options):
            asked.append(options.get("workers"))
            return submit(function, *arguments, **options)

        workers._client.submit = noted
        # No part ends before both workers have one, and none of the last before a third has.
        found = workers.map(process_of, Opened(tmp_path / "file"), [
            (index, traces, 2 if index < 30 else 3) for index in range(60)], done=kill)
        # The shared data may be anywhere; left to itself, Dask might keep short parts there.
        assert asked[0] is None
        assert asked[1] != asked[2]
        assert sorted(asked[1:5]) == sorted(2 * asked[1:3])
    assert len(set(found)) == 3


def test_places():
    assert module._places({}, []) == []
    assert module._places({"a": 1, "b": 2}, []).count("a") == 2
    assert module._places({"a": 1, "b": 2}, []).count("b") == 4
    assert module._places({"a": 1, "b": 1}, ["a", "a", "gone"]) == ["b", "b"]


def test_what_kills_every_worker_is_given_up(tmp_path):
    with Cluster(workers=2) as workers, pytest.raises(
            ClusterError, match="ended every worker that took it"):
        workers.map(work, 0, [(index, str(tmp_path), "always") for index in range(8)])


def test_workers_of_another_version_are_refused(two, monkeypatch):
    monkeypatch.setattr(module, "_version", lambda name: "another")
    with pytest.raises(ClusterError, match=r"^every worker must have the same version of systola "
                                           r"as this installation, which tcp://\S+ has not$"):
        two.map(work, 0, [(1,)])


# --- Accuracy ---


@pytest.mark.parametrize("batch", [1, 7, 32, 1000])
def test_accuracy_is_that_of_one_process(two, networks, batch):
    images, found = open_images("digits", graph=networks[0]), []
    for where in None, two:
        kept = {}
        result = accuracy.evaluate(*networks, images, images.labels, batch=batch, keep=kept,
                                   cluster=where)
        found.append((result, kept))
    (one, logits), (other, others) = found
    assert one == other
    assert logits.keys() == others.keys() == {"labels", "integer", "float"}
    for name, value in logits.items():
        assert value.dtype == others[name].dtype
        assert np.array_equal(value, others[name])


def test_pictures_are_read_by_the_workers(two, networks, tmp_path, monkeypatch):
    """What is noted of them comes back, too."""
    pixels, labels = load_data("digits")
    for index, (image, label) in enumerate(zip(pixels[:90], labels, strict=False)):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        picture = Image.fromarray((image * 255).astype(np.uint8))
        if index % 3 == 0:
            picture = picture.convert("RGB")
        if index % 5 == 0:
            picture = picture.resize((16, 16))
        picture.save(tmp_path / str(label) / f"{index}.png")
    one, other = (open_images(tmp_path, graph=networks[0]) for _ in range(2))
    wanted = accuracy.evaluate(*networks, one, one.labels)
    with monkeypatch.context() as patch:
        patch.setattr(type(other), "__getitem__", None)  # in this process
        assert accuracy.evaluate(*networks, other, other.labels, cluster=two) == wanted
    assert one.about() == other.about()
    assert any("30 of 90 images are RGB" in remark for remark in other.remarks())
    assert one.digests == other.digests
    assert len(one.digests) == 90


def test_a_damaged_picture_is_named(two, networks, tmp_path):
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / str(label) / "a.png")
    (tmp_path / "3" / "a.png").write_bytes(b"no picture")
    said = []
    for where in None, two:
        images = open_images(tmp_path, graph=networks[0])
        with pytest.raises(ValueError, match=r"3/a.png") as error:
            accuracy.evaluate(*networks, images, images.labels, cluster=where)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_accuracy_when_a_worker_is_killed_half_way(networks):
    images, killed = open_images("digits", graph=networks[0]), []
    others = processes()

    def kill(done, total):
        if done > total // 2 and not killed:
            killed.append((processes() - others).pop())
            killed[0].kill()

    alone = accuracy.evaluate(*networks, images, images.labels, batch=2)
    with Cluster(workers=2) as workers:
        assert accuracy.evaluate(*networks, images, images.labels, batch=2, cluster=workers,
                                 progress=kill) == alone
    assert killed


# --- Schedulers of others ---


@contextlib.contextmanager
def scheduler(folder, workers):
    """Start a scheduler and workers as a cluster does, in processes of their own."""
    file, started = folder / "scheduler.json", []
    try:
        for what, *options in [("scheduler", "--port", "0", "--no-dashboard")] + workers * [
                ("worker", "--nthreads", "1", "--no-dashboard")]:
            started.append(subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", file,
                 *options], cwd=folder, stderr=subprocess.DEVNULL))
        while not file.exists() or not file.read_text():
            assert started[0].poll() is None
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


def test_command(networks, tmp_path, capsys):
    save_network(networks[1], tmp_path / "n.safetensors")
    arguments = ["evaluate", "--model", "digits", "--quantized", str(tmp_path / "n.safetensors"),
                 "--json"]
    assert main(arguments) == 0
    alone = json.loads(capsys.readouterr().out)
    with scheduler(tmp_path, 2) as address:
        assert main([*arguments, "--scheduler", address]) == 0
        assert json.loads(capsys.readouterr().out) == alone
    assert main([*arguments, "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == alone


def test_a_scheduler_without_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_IDLE_SECONDS", 1)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.2)
    with scheduler(tmp_path, 0) as address, Cluster(scheduler=address) as workers, pytest.raises(
            ClusterError, match=r"a scheduler must have workers; that of .* has had none for 1 "):
        workers.map(work, 1, [(1,)])


@pytest.mark.parametrize(("options", "message"), [
    (["--scheduler", "tcp://127.0.0.1:9"],
     "systola: scheduler 'tcp://127.0.0.1:9' cannot be reached: "),
    (["--scheduler", "nowhere"], "systola: scheduler 'nowhere' cannot be reached: "),
    (["--scheduler", "ftp://a:1"], "systola: scheduler 'ftp://a:1' cannot be reached: "),
    (["--workers", "0"], "systola: Invalid value for '--workers'"),
    (["--workers", "2", "--scheduler", "tcp://127.0.0.1:9"],
     "systola: --workers starts processes here and --scheduler names others: one of them"),
])
def test_what_cannot_be_is_refused_in_one_line(options, message, capsys, monkeypatch):
    monkeypatch.setattr(module, "_CONNECT_SECONDS", 1)
    assert main(["evaluate", "--model", "digits", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(message)


def test_one_of_both_is_needed():
    for options in {}, {"workers": 1, "scheduler": "tcp://127.0.0.1:9"}:
        with pytest.raises(ValueError, match=r"^a cluster needs either workers or a scheduler$"):
            Cluster(**options)


@pytest.mark.parametrize("batch", [1, 2])
def test_simulated_runs_are_those_of_one_process(two, batch):
    model, config, codes = random_case(3, images=3)
    done = []
    alone, shared = (simulate(model, config, codes, batch=batch, optimize="-O0", **options)
                     for options in ({}, {"cluster": two, "progress": lambda *args, **_:
                                          done.append(args)}))
    assert done[-2][:2] == (2 * -(-3 // batch),) * 2
    reports = [result.report() for result in (alone, shared)]
    for report in reports:
        assert report.pop("seconds")["simulate"] > 0
        assert report.pop("cycles_per_second") > 0
        assert (report["images"], report["mismatches"]) == (3, 0)
        # A second run of the same process begins where arbiters were left.
        report["counters"] = {name: value for name, value in report["counters"].items()
                              if not name.endswith(("_busy", "_idle"))}
    assert reports[0] == reports[1]
    for left, right in zip(alone.tensors, shared.tensors, strict=True):
        assert left.keys() == right.keys()
        assert all((left[name] == right[name]).all() for name in left)


def test_pieces_are_not_shared(capsys):
    assert main(["simulate", "--model", "digits", "--pieces", "--workers", "2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "systola: --workers and --scheduler share whole runs, without --pieces")


def test_hostile_programs_on_workers(two):
    """Though more than one call of the simulation is needed."""
    configs = {"tiny": CONFIGS["tiny"]}
    alone, shared = (soak_programs(260, configs=configs, cluster=where) for where in (None, two))
    assert alone.pop("seconds") > 0
    assert shared.pop("seconds") > 0
    assert shared == alone
    assert alone["programs"] == 260
