"""The check of the weights in the package."""

import ast
import inspect
import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest

import knowcusbench
from knowcusbench.benchmark import types
from knowcusbench.errors import ConfigError
from knowcusbench.toybox import parts, shipped
from knowcusbench.toybox.shipped import MANIFEST, remembered_world, world_digest, write_manifest
from knowcusbench.toybox.world import concepts, language, world

MODEL = "deep/model.safetensors"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a package folder with the weights of two parts."""
    folder = tmp_path / "weights"
    for part in ("clip", "sam"):
        (folder / part / "deep").mkdir(parents=True)
        (folder / part / MODEL).write_bytes(part.encode())
    write_manifest(folder, {"training": {"seed": 0}})
    for module in (shipped, parts):
        monkeypatch.setattr(module, "WEIGHTS", folder)
    parts.embedded.cache_clear()
    return folder


def embedded(part: str, cache: Path) -> Path:
    parts.embedded.cache_clear()
    return parts.embedded(part, str(cache))


def test_weights_are_copied_to_the_cache(weights: Path, tmp_path: Path) -> None:
    assert (embedded("clip", tmp_path / "cache") / MODEL).read_bytes() == b"clip"
    assert (embedded("sam", tmp_path / "cache") / MODEL).read_bytes() == b"sam"
    assert json.loads((weights / MANIFEST).read_text())["training"] == {"seed": 0}


def test_an_altered_file_is_named_with_both_digests(weights: Path, tmp_path: Path) -> None:
    (weights / "sam" / MODEL).write_bytes(b"mas")
    embedded("clip", tmp_path / "cache")
    with pytest.raises(ConfigError, match=rf"{weights}/sam/{MODEL}: SHA-256 .* the manifest says .*make toybox"):
        embedded("sam", tmp_path / "cache")


def test_an_altered_copy_is_named(weights: Path, tmp_path: Path) -> None:
    directory = embedded("sam", tmp_path / "cache")
    (directory / MODEL).write_bytes(b"mas")
    with pytest.raises(ConfigError, match=rf"{directory}/{MODEL}: SHA-256 .*; remove {directory.parent}, .* a copy"):
        embedded("sam", tmp_path / "cache")


def test_new_weights_never_meet_an_old_copy(weights: Path, tmp_path: Path) -> None:
    old = embedded("sam", tmp_path / "cache")
    (weights / "sam" / MODEL).write_bytes(b"new")
    write_manifest(weights, {})
    assert (embedded("sam", tmp_path / "cache") / MODEL).read_bytes() == b"new"
    assert (old / MODEL).read_bytes() == b"sam"


def test_a_missing_file_is_named(weights: Path, tmp_path: Path) -> None:
    (weights / "clip" / MODEL).unlink()
    with pytest.raises(ConfigError, match=rf"clip/{MODEL}: .* is missing; .*make toybox"):
        embedded("clip", tmp_path / "cache")


def test_weights_of_another_world_are_refused(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "world_digest", lambda: "0" * 64)
    with pytest.raises(ConfigError, match=rf"of world {world_digest()[:12]}, this code draws world 000000000000"):
        embedded("clip", tmp_path / "cache")


@pytest.mark.parametrize("table", ["NAMED", "SIMPLE", "KNOWN"])
def test_another_look_or_fact_is_another_world(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(getattr(world, table))
    first, second = list(known)[:2]
    known[first] = known[second]
    before = world_digest()
    for module in (world, language):
        monkeypatch.setattr(module, table, known, raising=False)
    world_digest.cache_clear()
    assert world_digest() != before
    monkeypatch.undo()
    world_digest.cache_clear()
    assert world_digest() == before


@pytest.mark.parametrize("table", ["NOVEL_CONCEPTS", "DEVELOPMENT_CONCEPTS"])
def test_another_concept_is_another_world(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world_digest()
    monkeypatch.setattr(concepts, table, getattr(concepts, table)[::-1])
    world_digest.cache_clear()
    assert world_digest() != before
    world_digest.cache_clear()


def test_the_world_is_drawn_once_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = remembered_world(tmp_path)
    assert known == world_digest()
    monkeypatch.setattr(shipped, "world_digest", lambda: "0" * 64)
    assert remembered_world(tmp_path) == known
    assert remembered_world(tmp_path / "another") == "0" * 64
    (kept,) = tmp_path.glob("world-*")
    kept.write_bytes(b"half a dig")
    assert remembered_world(tmp_path) == "0" * 64


def test_other_code_or_another_library_draws_the_world_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = shutil.copytree(
        Path(shipped.__file__).parent, tmp_path / "toybox", ignore=shutil.ignore_patterns("weights")
    )
    monkeypatch.setattr(shipped, "__file__", str(package / "shipped.py"))
    remembered_world(tmp_path)
    shapes = package / "world" / "shapes.py"
    shapes.write_text(shapes.read_text() + "\n")
    remembered_world(tmp_path)
    monkeypatch.setattr(np, "__version__", "9.9.9")
    remembered_world(tmp_path)
    assert len(list(tmp_path.glob("world-*"))) == 3


def test_the_world_follows_from_no_other_file_than_those_that_are_looked_at() -> None:
    """By the imports of `world_digest`, followed recursively."""
    package = Path(knowcusbench.__file__).parent

    def imports(tree: ast.AST) -> set[Path]:
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        found = [package.parent.joinpath(*name.split(".")) for name in names if name.startswith("knowcusbench.")]
        return {path / "__init__.py" if path.is_dir() else path.with_suffix(".py") for path in found}

    waiting = imports(ast.parse(textwrap.dedent(inspect.getsource(world_digest.__wrapped__))))
    reached: set[Path] = set()
    while waiting:
        reached.add(path := waiting.pop())
        waiting |= imports(ast.parse(path.read_text())) - reached
    assert {path.name for path in reached} >= {"render.py", "shapes.py", "world.py"}
    assert all(package / "toybox" in path.parents for path in reached if path != Path(types.__file__))


def test_no_manifest(weights: Path, tmp_path: Path) -> None:
    (weights / MANIFEST).unlink()
    with pytest.raises(ConfigError, match=r"manifest.json: .* are missing; .*make toybox"):
        embedded("clip", tmp_path / "cache")


def test_an_unknown_part(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embedded:calp.*did you mean 'clip'"):
        embedded("calp", tmp_path)
