"""A run directory that has become read-only."""

import os
import shutil
import subprocess
import time

import pytest

from knowcusbench.cli.main import main

ORDINARY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")
"""A command prefix without root's capabilities, since root ignores a file's mode."""


@pytest.mark.command
def test_a_removed_permission_is_one_line_and_the_run_goes_on_when_it_is_back(short_bench):
    if os.geteuid() == 0 and not shutil.which(ORDINARY[0]):
        pytest.skip("root, and no setpriv to do without its rights")
    command = [*(ORDINARY if os.geteuid() == 0 else ()), *short_bench.command]
    run = short_bench.run
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 240
    while len(list(run.rglob("images/*/*/*.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    folders = [run, *(path for path in run.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    _, error = process.communicate(timeout=240)
    for folder in folders:
        folder.chmod(0o755)
    assert process.returncode == 2
    assert error.splitlines()[-1].startswith(f"knowcusbench: can't write {run}/")
    assert "Permission denied" in error.splitlines()[-1]
    assert "Traceback" not in error
    drawn = {path: path.stat().st_mtime_ns for path in run.rglob("images/*/*/*.png")}
    assert 3 <= len(drawn) < short_bench.samples
    main(short_bench.command[3:])
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn
    assert len(list(run.rglob("images/*/*/*.png"))) == short_bench.samples
    assert not list(run.rglob("*.claim"))
