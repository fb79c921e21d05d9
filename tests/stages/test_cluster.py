"""Runs with several workers give the same bytes as runs with one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

Command = Callable[..., int]
RESULTS = ("adaptations", "images", "scores", "floors", "effects", "together", "interference", "ceilings")


@pytest.fixture(scope="module")
def ray_words() -> Iterator[tuple[str, ...]]:
    """Overrides that run a command on workers with a quarter of a core each, in a Ray of this machine."""
    yield "engine=ray", "engine.cpus_per_worker=0.25"
    ray.shutdown()


@pytest.mark.command
def test_the_number_of_workers_changes_no_byte(
    ray_words: tuple[str, ...], command: Command, finished_run: Path, tmp_path: Path
) -> None:
    """Runs all stages, with a cache in which nothing was trained yet."""
    words = ("method=mokus", "engine.workers=2", f"cache_dir={tmp_path / 'cache'}")
    assert command("bench", tmp_path, *ray_words, *words) == 0
    run = tmp_path / "run"
    compared = [
        path
        for folder in RESULTS
        for path in (run / folder).rglob("*")
        if path.is_file() and path.name != "adaptation.json"
    ]
    assert len(compared) > 30
    for path in compared:
        assert path.read_bytes() == (finished_run / path.relative_to(run)).read_bytes(), path
    assert len(list((run / "journal" / "mokus").iterdir())) >= 2, "several workers drew"


@pytest.mark.command
def test_scores_made_while_others_draw_are_the_same(
    ray_words: tuple[str, ...], command: Command, finished_run: Path, tmp_path: Path
) -> None:
    words = ("method=base", "metrics=[clip_i,clip_t]", "engine.workers=1", "effects.enabled=false")
    assert command("bench", tmp_path, *ray_words, *words, "engine.score_workers=1") == 0
    tables = sorted((tmp_path / "run" / "scores" / "base").iterdir())
    assert [path.stem for path in tables] == ["clip_i", "clip_t"]
    for path in tables:
        assert path.read_bytes() == (finished_run / "scores" / "base" / path.name).read_bytes()
