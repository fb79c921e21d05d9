"""The notebook runs from its first cell to its last, and its kept outputs are those of its cells."""

import importlib.util
import json
import sys

import pandas as pd
import pytest
from docs.documents import ROOT

NOTEBOOK = ROOT / "docs" / "examples" / "first_run.ipynb"

SHORT = (
    "metrics=[clip_i]",
    "grid.knowledge_items=1",
    "grid.tasks=[reconstruction]",
    "effects.enabled=false",
    "recipe.dreambooth.steps=2",
    "recipe.dreambooth.prior_images=0",
    "recipe.naive_db.steps=2",
    "backbone.steps=2",
    "backbone.dtype=float32",
    "backbone.height=64",
    "backbone.width=64",
    "grid.seeds=[0]",
)


@pytest.fixture
def runner():
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cells(runner):
    return runner.code_cells(json.loads(NOTEBOOK.read_text()))


def test_its_outputs_are_kept_small_and_whole(cells) -> None:
    assert NOTEBOOK.stat().st_size < 300_000
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    shown = ["".join(cell["outputs"][-1]["data"].keys()) for cell in cells if cell["outputs"]]
    assert sum("text/html" in kinds for kinds in shown) >= 5
    assert sum("image/png" in kinds for kinds in shown) == 1


@pytest.mark.command
def test_its_cells_run_one_after_another(runner, cells, cache_dir, tmp_path, monkeypatch) -> None:
    """In shorter settings, which stand behind its own; of the two concepts, each method draws two images."""
    import knowcusbench as kb

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    bench = kb.bench
    made = [*SHORT, f"cache_dir={cache_dir}"]
    own = {word.partition("=")[0] for word in made}

    def short(method, *, concepts, seeds, name, overrides):
        kept = [word for word in overrides if word.partition("=")[0] not in own]
        methods = method if isinstance(method, str) else ["base", "naive_db"]
        return bench(methods, concepts=concepts[:2], name=name, overrides=[*kept, *made])

    monkeypatch.setattr(kb, "bench", short)
    sources = ["".join(cell["source"]) for cell in cells]
    sources = [
        source.replace('task="generation"', 'task="reconstruction"').replace("mokus", "naive_db") for source in sources
    ]
    namespace = {"__name__": "__main__"}
    runner.run_cells(sources, namespace)
    methods = kb.open_run(tmp_path / "results" / "runs" / "first").methods
    assert isinstance(methods, pd.DataFrame)
    assert methods["drawn"].to_dict() == {"base": 2, "naive_db": 2, "all_phrases": 2}
