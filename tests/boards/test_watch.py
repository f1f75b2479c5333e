"""Tools that take long end with the command that started them."""

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import systola.cli.main as cli
from systola.boards.synthesis.watch import watch

def work(args):
    with ThreadPoolExecutor(1) as pool:  # the second one waits for the first
        list(pool.map(lambda _: watch(["sleep", "1000"], ".", stdout=None, stderr=None,
                                      look=lambda: print("runs", flush=True)), range(2)))

cli._run = work
# What a shell starts in the background ignores the first of these signals, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(cli.main([]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_tools_in_other_threads(number, code):
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        assert process.stdout.readline() == "runs\n"
        tools = _children(process.pid)
        assert tools
        process.send_signal(number)
        assert process.wait(timeout=60) in {code, -number}
    for tool in tools:
        for _ in range(100):
            if not _is_alive(tool):
                break
            time.sleep(0.05)
        assert not _is_alive(tool)


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        found = file.read().split()
    # A thread's children are listed with that thread.
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as file:
            found += file.read().split()
    return sorted(set(map(int, found)))


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
