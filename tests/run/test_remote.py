"""A run directory in an object store has the same results as on a disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer

Command = Callable[..., int]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket on an S3 server in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        _, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket/runs"
        server.stop()


def stored() -> dict[str, tuple[str, str]]:
    """Return every object's digest and time."""
    found = s3fs.S3FileSystem(use_listings_cache=False).find("bucket/runs/run", detail=True)
    return {
        name.removeprefix("bucket/runs/run/"): (entry["ETag"], entry["LastModified"]) for name, entry in found.items()
    }


def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket: str, command: Command, finished_run: Path) -> None:
    assert command("bench", bucket, "method=mokus") == 0
    found = stored()
    store = s3fs.S3FileSystem()
    compared = [
        path
        for folder in (
            "adaptations/mokus",
            "images/mokus",
            "scores/mokus",
            "floors/mokus",
            "effects/mokus",
            "together/mokus",
        )
        for path in (finished_run / folder).rglob("*")
        if path.is_file() and path.name != "adaptation.json"
    ]
    assert len(compared) > 40
    for path in compared:
        name = path.relative_to(finished_run).as_posix()
        assert store.cat_file(f"bucket/runs/run/{name}") == path.read_bytes(), name
    assert not [name for name in found if name.startswith("claims/")]
    assert {"report/leaderboard.csv", "report/pictures.png", "plan.parquet", "run.json"} <= found.keys()


def test_running_again_draws_and_scores_nothing(bucket: str, command: Command) -> None:
    before = stored()
    assert command("bench", bucket, "method=mokus") == 0
    after = stored()
    kept = [name for name in before if name.startswith(("adaptations", "images", "scores", "journal", "effects"))]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"provenance"}


def test_a_deleted_image_is_drawn_again(bucket: str, command: Command) -> None:
    before = stored()
    name = next(name for name in before if name.startswith("images/"))
    s3fs.S3FileSystem().rm(f"bucket/runs/run/{name}")
    assert command("bench", bucket, "method=mokus") == 0
    after = stored()
    assert after[name][0] == before[name][0]
    assert {other for other in before if other.startswith(("images", "scores")) and after[other] != before[other]} == {
        name
    }


def test_a_place_that_is_not_there_is_one_line(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("bench", "gopher://bucket/runs", "method=mokus") == 2
    assert "gopher://bucket/runs: can't be used as a directory" in capsys.readouterr().err
