"""What tests of commands share."""

import pytest

from systola.cli.main import main


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Return a function that runs the command in a fresh folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYSTOLA_DEBUG", raising=False)

    def call(*args):
        code = main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return code, out, err

    return call
