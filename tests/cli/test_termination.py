"""On SIGTERM the command ends in time, with an exit code that schedulers understand, and can be continued."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from knowcusbench.cli import termination
from knowcusbench.cli.main import main
from knowcusbench.cli.termination import Terminated, terminable


def test_the_block_is_left_where_it_is_and_signals_are_as_before():
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before[1])
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
    with pytest.raises(Terminated), terminable():
        time.sleep(5)
    assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before


@pytest.fixture(autouse=True)
def no_end(monkeypatch):
    """The thread that ends the process would end the tests too."""
    monkeypatch.setattr(termination, "GRACE", 1e6)


def test_in_another_thread_nothing_is_changed():
    seen = []

    def work():
        with terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


def test_a_call_that_does_not_come_back_is_ended():
    script = """
        import hashlib, os, signal, threading
        from knowcusbench.cli import termination
        termination.GRACE = 0.5
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
        with termination.terminable():
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
    """
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=60)
    assert done.returncode == 143
    assert time.monotonic() - started < 30


@pytest.mark.command
def test_a_command_that_is_told_to_stop_can_be_gone_on_with(short_bench):
    command, run, samples = short_bench
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 120
    while len(drawn := list(run.rglob("images/*/*/*.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    # Slurm waits this long before it kills; a busy processor needs most of it.
    _, error = process.communicate(timeout=30)
    assert process.returncode == 143
    assert error.splitlines()[-1] == "knowcusbench: stopped by SIGTERM; run the same command again to continue"
    assert "Traceback" not in error
    assert not list(run.rglob("*.claim"))
    assert not list(run.rglob(".*.tmp"))
    times = {path: path.stat().st_mtime_ns for path in drawn}
    main(command[3:])
    assert {path: path.stat().st_mtime_ns for path in drawn} == times
    assert len(list(run.rglob("images/*/*/*.png"))) == samples
