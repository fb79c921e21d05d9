"""The masks of scored images in the report's gallery, and its notes on masks that were not kept."""

import html
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowcusbench.cli.main import main
from knowcusbench.metrics.clip_i_seg import _embedder
from knowcusbench.storage.digests import content_digest

Command = Callable[..., int]
SMALL = (
    "backbone.steps=2",
    "grid.concepts=[dog3,duck_toy]",
    "grid.knowledge_items=1",
    "grid.prompts=1",
    "grid.seeds=[0]",
    "metrics=[clip_i_seg]",
    "effects.enabled=false",
    "method=base",
)


@pytest.fixture(scope="module")
def run(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its own cache. A test restores everything but the report."""
    root = tmp_path_factory.mktemp("masks")
    assert command("bench", root, f"cache_dir={root}/cache", small=SMALL) == 0
    return root / "run"


def gallery(run: Path, name: str) -> str:
    return (run / "report" / "gallery" / f"{name}.html").read_text()


def data(run: Path, concept: str) -> Any:
    found = re.search(r'id="data">(.*?)</script>', gallery(run, concept), re.S)
    assert found
    return json.loads(found[1])


def overlays(run: Path) -> list[Path]:
    return sorted((run / "report" / "gallery" / "masks").rglob("*.png"))


def test_the_gallery_has_the_mask_of_every_score_and_reference(run: Path) -> None:
    scores = pd.read_parquet(run / "scores" / "base" / "clip_i_seg.parquet").set_index("sample_id")
    kept = {file.name: file for file in (run.parent / "cache" / "embeddings" / "masks").rglob("*.png")}
    seen = set()
    for concept in ("dog3", "duck_toy"):
        page = data(run, concept)
        ((title, folder),) = page["masks"]
        assert title == "CLIP-I-Seg"
        for sample, (_, _, (((name, coverage, note),),)) in page["samples"].items():
            image = run / "images" / "base" / concept / f"{sample}.png"
            assert name.startswith(content_digest(image)[:16])
            mask = np.asarray(Image.open(kept[name]))
            assert mask.shape == np.asarray(Image.open(image)).shape[:2]
            assert json.loads(scores["details"][sample])["coverage"] == pytest.approx(mask.mean(), abs=1e-6)
            assert (coverage, note) == (pytest.approx(100 * mask.mean(), abs=0.051), scores["note"][sample])
            drawn = np.asarray(Image.open(run / "report" / "gallery" / folder / name).convert("RGBA"))[..., 3]
            assert (drawn != 170).mean() == pytest.approx(mask.mean(), abs=0.01)
            seen.add(name)
        assert all(masks[0][0] in kept for masks in page["references"])
        seen |= {masks[0][0] for masks in page["references"]}
    assert {file.name for file in overlays(run)} == seen == set(kept)


def test_masks_that_were_not_kept_are_told_and_the_remedy_brings_them(run: Path, command: Command) -> None:
    table, pages = run / "scores" / "base" / "clip_i_seg.parquet", overlays(run)
    before = table.read_bytes()
    shutil.rmtree(run.parent / "cache" / "embeddings" / "masks")
    shutil.rmtree(run / "report")
    assert command("report", run.parent, small=()) == 0
    assert overlays(run) == []
    told = gallery(run, "index")
    assert "0 of 4 scored pictures" in told
    found = re.search(r"<pre[^>]*>(knowcusbench|mkdir)(.*?)</pre>", told, re.S)
    assert found
    *lines, scoring = html.unescape(found[1] + found[2]).splitlines()
    subprocess.run(["bash", "-ec", "\n".join(lines)], check=True)
    assert not table.exists()
    program, *words = shlex.split(scoring)
    assert program == "knowcusbench"
    # A new process has no embeddings in memory.
    _embedder.cache_clear()
    main(words)
    assert table.read_bytes() == before
    assert command("report", run.parent, small=()) == 0
    assert overlays(run) == pages
    assert "4 of 4 scored pictures" in gallery(run, "index")
    assert "<pre" not in gallery(run, "index")


def test_a_failure_that_was_recorded_is_in_the_first_page_and_in_its_cell(run: Path, command: Command) -> None:
    image = next((run / "images" / "base" / "dog3").iterdir())
    image.unlink()
    record = {
        "stage": "generate",
        "concept": "dog3",
        "error": "OutOfMemoryError: <b>none</b> left",
        "attempts": 3,
        "prompt": "dog & cat",
        "noise_seed": 17,
        "traceback": "Traceback: line <1>",
        "time": "2026-01-01T00:00:00Z",
    }
    folder = run / "failures" / "base"
    folder.mkdir(parents=True)
    (folder / f"{image.stem}.json").write_text(json.dumps(record))
    assert command("report", run.parent, small=()) == 0
    first = (run / "report" / "index.html").read_text()
    for text in ("OutOfMemoryError: &lt;b&gt;none&lt;/b&gt; left", "dog &amp; cat", "Traceback: line &lt;1&gt;"):
        assert text in first
    assert f'href="gallery/dog3.html#s{image.stem}"' in first
    cell = gallery(run, "dog3").partition(f'id="s{image.stem}"')[2].partition("</figure>")[0]
    assert "failed<small>OutOfMemoryError: &lt;b&gt;none" in cell
