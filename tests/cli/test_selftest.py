import dataclasses
import json

import numpy as np
import pytest

from systola.cli import run as run_command
from systola.cli import selftest as command
from systola.cli.main import main
from systola.hw.contract.config import PRESETS
from systola.model.data.synthetic import random_vit
from systola.model.graph.graph_file import save_network
from systola.sim.machine.device import DeviceModel
from systola.sim.machine.machine import Machine
from systola.sw_driver.driver.port import Port
from systola.sw_driver.driver.uart import UartTransport


class ModelPort(Port):
    """A line without faults to a model of a board."""

    name, baud = "model", 1_000_000

    def __init__(self, config):
        self.device, self.now = DeviceModel(config), 0.0

    def clock(self):
        return self.now

    def write(self, data):
        self.now += 1e-5 * len(data)
        self.device.feed(data)

    def read(self, timeout):
        self.device.work()
        data = bytes(self.device.channel.line)
        self.device.channel.line.clear()
        self.now += 1e-5 * len(data) if data else timeout
        return data

    def close(self):
        pass


@pytest.fixture
def board(monkeypatch):
    """Put a model of a board of preset `tiny` at every port."""
    place(monkeypatch, "tiny")


def place(monkeypatch, preset):
    for module in command, run_command:
        monkeypatch.setattr(module, "open_link", lambda *link: UartTransport(
            ModelPort(PRESETS[preset])))


def run(capsys, *arguments):
    code = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err.strip().splitlines()[-1:]


def test_a_good_board_passes(board, capsys):
    code, out, _ = run(capsys, "selftest", "--port", "any", "--json")
    report = json.loads(out)
    assert (code, report["passed"], report["config"]) == (0, True, "tiny")
    assert {part["outcome"] for part in report["parts"]} == {"passed"}
    assert report["bytes_in"] > 10_000 < report["bytes_out"]
    code, out, _ = run(capsys, "selftest", "--port", "any")
    assert code == 0
    assert "  scratchpad             passed\n" in out
    assert "all parts pass: " in out


def test_what_is_wrong_is_named(board, capsys, monkeypatch):
    start = Machine.__init__

    def broken(self, config, seed=None):
        start(self, config, seed)
        store = self.memories.store
        # Bank 1 has lost a bit, where results are read.
        self.memories.store = lambda fields: np.where(
            (np.arange(fields["rows"])[:, None] * fields["stride"] + fields["base"] >= 512)
            & (np.arange(config.rows) == 2), store(fields) & 0xBF, store(fields))
    monkeypatch.setattr("systola.sim.machine.device.Machine.__init__", broken)
    monkeypatch.setattr("systola.sw_driver.selftest.probe.Machine", _Good)
    code, out, _ = run(capsys, "selftest", "--port", "any")
    assert code == 1
    assert "    bank 1, lane 2 bit 6 stuck at 0 in every word\n" in out
    assert "something is wrong: " in out


class _Good(Machine):
    """A machine as it was before a test broke it."""

    def __init__(self, config, seed=None, *, begin=Machine.__init__):
        begin(self, config, seed)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "give either --port or --registers"),
    (["--port", "a", "--registers", "b"], "give either --port or --registers"),
    (["--registers", "/dev/uio0", "--baud", "9600"],
     "--baud is the rate of a serial port: it needs --port and excludes --registers"),
    (["--port", "a", "--config", "small"], "config 'small' has the hash "),
])
def test_wrong_input_is_one_line(board, arguments, message, capsys):
    code, out, err = run(capsys, "selftest", *arguments)
    assert (code, out) == (2, "")
    assert err[0].startswith(f"systola: {message}")


def test_run_points_to_the_test_when_results_differ(board, capsys, monkeypatch, tmp_path):
    vit = random_vit(np.random.default_rng(1), channels=8, heads=2, blocks=1, hidden=16,
                     classes=4, tokens=5, patch_dim=4, **PRESETS["tiny"].model_settings)
    network, images = tmp_path / "network.safetensors", tmp_path / "data.npz"
    save_network(dataclasses.replace(vit, meta={"patch_size": 2, "mean": [0.5], "std": [0.5]}),
                 network)
    np.savez(images, images=np.random.default_rng(2).random((1, 4, 4)), labels=np.arange(1))
    arguments = "run", "--port", "/dev/ttyUSB1", "--model", network, "--data", images
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "selftest" not in out
    compute = Machine.run
    monkeypatch.setattr(Machine, "run", lambda self, stream: [
        frame ^ 1 for frame in compute(self, stream)])
    code, out, _ = run(capsys, *arguments)
    assert code == 1
    assert out.splitlines()[-1] == (
        "which part of the board is wrong: systola selftest --port /dev/ttyUSB1")
