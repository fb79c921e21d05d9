"""A command to run in this process, on real photographs with the miniature backbone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

SMALL = (
    "recipe.dreambooth.steps=2",
    "recipe.dreambooth.prior_images=0",
    "recipe.naive_db.steps=2",
    "recipe.encoder_tuning.steps=2",
    "backbone.steps=2",
    "grid.concepts=[dog3,duck_toy]",
    "grid.knowledge_items=2",
    "grid.prompts=1",
    "grid.seeds=[0,1]",
    "locality.prompts=[a red apple]",
)
"""2 concepts x 2 items x (alone, in a prompt) x 2 seeds: 16 samples. One unrelated prompt."""

Command = Callable[..., int]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def command(cache_dir: Path, sample_benchmark: Path) -> Command:
    """`command("bench", root, "key=value", ...)` runs a small grid into `root`/run and returns the exit code."""
    from knowcusbench.cli import main

    def run(verb: str, root: Path, *overrides: str, small: tuple[str, ...] = SMALL) -> int:
        photos = ("benchmark=directory", f"benchmark.path={sample_benchmark}")
        shared = (f"run.root={root}", "run.name=run", f"cache_dir={cache_dir}", *photos)
        try:
            main([verb, *shared, *small, *overrides])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture(scope="session")
def finished_run(command: Command, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with all six methods, made by one sweep, by whichever process of the tests needs it first; the
    others get its cache too. Tests copy it before they change it."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    made, kept = place / "finished", place / "finished-cache"
    with FileLock(place / "finished.lock"):
        if kept.exists():
            shutil.copytree(kept, cache_dir, dirs_exist_ok=True)
        else:
            assert command("bench", made, "-m", "method=base,leak,anchor,mokus,naive_db,enc_ft") == 0
            shutil.copytree(cache_dir, kept)
    return made / "run"
