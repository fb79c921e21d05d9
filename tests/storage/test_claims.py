"""Claims: one owner at a time, across threads, processes and crashes."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from upath import UPath

from knowcusbench.storage.claims import Claims, piece_of


@pytest.fixture(params=["local", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "claims" if request.param == "local" else UPath(f"memory://{tmp_path.name}/claims")


def test_a_claim_is_of_one_until_it_is_released(directory: Path) -> None:
    first, second = Claims(directory), Claims(directory)
    with first.of("piece") as claim:
        assert claim
        with second.of("piece") as other, second.of("another") as free:
            assert other is None
            assert free
    with second.of("piece") as claim:
        assert claim


def test_a_claim_that_is_not_renewed_can_be_taken_over_and_its_owner_finds_out(directory: Path) -> None:
    asleep, other = Claims(directory, lease=1e9), Claims(directory, lease=0.2)
    with asleep.of("piece") as claim:
        with other.of("piece") as early:
            assert early is None
        time.sleep(0.3)
        assert claim.holds()
        with other.of("piece") as late:
            assert late
            assert late.holds()
            assert not claim.holds()
            with Claims(directory).of("piece") as third:
                assert third is None


def test_a_claim_that_is_renewed_is_kept(directory: Path) -> None:
    owner, other = Claims(directory, lease=1.0), Claims(directory, lease=1.0)
    with owner.of("piece") as claim:
        for _ in range(8):
            with other.of("piece") as taken:
                assert taken is None
            time.sleep(0.25)
        assert claim.holds()


def claim_and_die(directory: Path, piece: str) -> None:
    script = (
        "import os, sys; from pathlib import Path; from knowcusbench.storage.claims import Claims\n"
        "with Claims(Path(sys.argv[1])).of(sys.argv[2]) as claim: os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(directory), piece], check=False)
    assert (directory / f"{piece}.0.claim").exists()


def test_a_claim_of_a_dead_process_is_free_at_once(tmp_path: Path) -> None:
    claim_and_die(tmp_path, "piece")
    with Claims(tmp_path, lease=1e9).of("piece") as claim:
        assert claim
        assert claim.path.name == "piece.1.claim"


def test_only_claims_of_dead_processes_are_removed(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claims.remove_dead()  # Works on an empty directory.
    claim_and_die(tmp_path, "dead")
    (tmp_path / "half.0.claim").write_text('{"host": ')
    with claims.of("alive") as claim:
        (tmp_path / "remote.0.claim").write_text(json.dumps({**json.loads(claim.content()), "host": "elsewhere"}))
        Claims(tmp_path).remove_dead()
        assert sorted(os.listdir(tmp_path)) == ["alive.0.claim", "half.0.claim", "remote.0.claim"]


def test_a_claim_of_another_machine_is_waited_for(tmp_path: Path) -> None:
    with Claims(tmp_path).of("piece") as claim:
        content = json.loads(claim.path.read_bytes())
    (tmp_path / "piece.0.claim").write_text(json.dumps({**content, "host": "elsewhere", "pid": 1}))
    claims = Claims(tmp_path, lease=0.2)
    with claims.of("piece") as claim:
        assert claim is None
    time.sleep(0.3)
    with claims.of("piece") as claim:
        assert claim


def test_a_claim_that_is_half_written_is_somebodys(tmp_path: Path) -> None:
    (tmp_path / "piece.0.claim").write_text('{"host": ')
    with Claims(tmp_path).of("piece") as claim:
        assert claim is None


def test_nothing_is_left(tmp_path: Path) -> None:
    for _ in range(3):
        with Claims(tmp_path).of("piece"), pytest.raises(ZeroDivisionError), Claims(tmp_path).of("other"):
            _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_of_many_threads_one_wins(directory: Path) -> None:
    def attempt(number: int) -> bool:
        with Claims(directory).of(piece_of("same")) as claim:
            time.sleep(0.2)
            return claim is not None

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def _work(directory: str, log: str) -> None:
    """Do those of 200 pieces that are not done, and log them."""
    claims, done = Claims(Path(directory) / "claims"), Path(directory) / "done"
    for piece in range(200):
        if not (done / str(piece)).exists():
            with claims.of(str(piece)) as claim:
                if claim and not (done / str(piece)).exists():
                    with open(log, "a") as handle:
                        handle.write(f"{piece}\n")
                    (done / str(piece)).touch()


def test_processes_share_work_and_do_none_twice(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(str(tmp_path), str(tmp_path / "log"))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # A process skips claimed pieces; each of those is done by its owner.
    _work(str(tmp_path), str(tmp_path / "log"))
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(200))
