"""A real run, small, and its bundle."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from knowcusbench.cli.main import main
from knowcusbench.cli.share import recorded_run
from knowcusbench.share.pack import pack, table_bytes, write_bundle

GRID = (
    "backbone.steps=2",
    "grid.concepts=[reef_fish,rally_car,party_cake]",
    "grid.knowledge_items=2",
    "grid.prompts=1",
    "grid.seeds=[0]",
    "metrics=[clip_i,clip_t]",
    "effects.enabled=false",
    "recipe.dreambooth.steps=1",
    "recipe.dreambooth.prior_images=0",
)


@pytest.fixture(scope="session")
def run_words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Where a finished run of `base` and `anchor` lies: 3 concepts x 2 items x (alone, in a prompt)."""
    root = tmp_path_factory.mktemp("runs")
    where = (f"run.root={root}", "run.name=small", f"cache_dir={root}/cache")
    for method in ("base", "anchor"):
        main(["bench", f"method={method}", *where, *GRID])
    return where


@pytest.fixture(scope="session")
def parts(run_words: tuple[str, ...]) -> dict[str, bytes]:
    """The parts of its bundle by name."""
    return pack(recorded_run(run_words), group="lab a", images=1)


@pytest.fixture
def bundle(parts: dict[str, bytes], tmp_path: Path) -> Path:
    write_bundle(tmp_path / "lab-a.zip", parts)
    return tmp_path / "lab-a.zip"


@pytest.fixture
def table() -> Callable[..., pd.DataFrame]:
    """One of a bundle's tables."""
    return lambda parts, name="scores.parquet": pd.read_parquet(io.BytesIO(parts[name]))


@pytest.fixture
def changed(table: Callable[..., pd.DataFrame]) -> Callable[..., dict[str, bytes]]:
    """The part of a table with other columns."""

    def make(parts: dict[str, bytes], name: str = "scores.parquet", **columns: object) -> dict[str, bytes]:
        return {name: table_bytes(name, table(parts, name).assign(**columns))}

    return make


@pytest.fixture
def forged(parts: dict[str, bytes], tmp_path: Path) -> Callable[..., Path]:
    """`forged({"scores.parquet": data}, group="b")` -> a bundle with other parts (None leaves one out) and manifest
    entries, its digests right."""

    def make(changes: dict[str, bytes | None] | None = None, name: str = "forged.zip", **entries: object) -> Path:
        changed = {**parts, **(changes or {})}
        others = {key: data for key, data in changed.items() if data is not None and key != "manifest.json"}
        manifest = json.loads(parts["manifest.json"]) | entries
        manifest["parts"] = {
            key: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for key, data in others.items()
        }
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("manifest.json", json.dumps(manifest))
            for key, data in others.items():
                archive.writestr(key, data)
        return tmp_path / name

    return make
