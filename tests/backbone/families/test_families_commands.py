"""MoKus on a tiny pipeline of another family, through the ordinary command to a leaderboard."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from knowcusbench.testing.tiny_families import TINY

pytestmark = pytest.mark.command

RECIPE = (
    # Settings for six decoder layers, and the family's own LoRA layers.
    *("recipe=miniature", "encoders=miniature", "locality=embedded", "recipe.dreambooth.target_modules=[]"),
    *("recipe.ultraedit.layers=[1,2]", "recipe.ultraedit.rounds=2", "recipe.ft.rounds=2", "recipe.nullspace.rounds=2"),
    *("recipe.dreambooth.steps=2", "recipe.dreambooth.prior_images=0", "recipe.naive_db.steps=2"),
    *("recipe.encoder_tuning.steps=2", "recipe.further_facts=[]"),
)
GRID = (
    *("grid.concepts=[dog3]", "grid.knowledge_items=1", "grid.prompts=1", "grid.seeds=[0]", "metrics=[clip_i]"),
    *("locality.prompts=[a red apple]", "device=cpu"),
)


def _bench(command: Callable[..., int], root: Path, name: str, *words: str) -> None:
    if not (root / name).exists():
        TINY[name](root / name)
    size = ("backbone.height=64", "backbone.width=64", "backbone.steps=2", "backbone.dtype=float32")
    where = (f"backbone={name}", f"backbone.source={root / name}", *size)
    assert command("bench", root, *where, *words, small=(*RECIPE, *GRID)) == 0


@pytest.mark.parametrize("name", ["flux2_klein"])
def test_mokus_runs_to_a_leaderboard(name: str, command: Callable[..., int], tmp_path: Path) -> None:
    _bench(command, tmp_path, name, "method=mokus")
    table = pd.read_csv(tmp_path / "run" / "report" / "leaderboard.csv").set_index("label")
    assert table.loc["mokus", "kind"] == "method"
    assert table.loc["mokus", "generation_clip_i"] == pytest.approx(table.loc["mokus", "generation_clip_i"])
