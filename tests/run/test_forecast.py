from pathlib import Path

import pytest
import torch

from knowcusbench.adapters.peft_files import save_adaptation
from knowcusbench.adapters.types import Adaptation, Cost
from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.run import forecast as module
from knowcusbench.run.estimate import plan_summary, work_of
from knowcusbench.run.forecast import forecast, keep_pace
from knowcusbench.run.jobs import adapt_jobs, adaptation_path
from knowcusbench.run.prepare import planned
from knowcusbench.run.run import Run
from knowcusbench.storage.tables import append_line

STAGES = ("adapt", "generate", "score", "effects", "report")


@pytest.fixture
def run(tmp_path: Path, cache_dir: Path) -> Run:
    """A planned run of which nothing is done."""
    words = (f"run.root={tmp_path}", "run.label=mokus", f"cache_dir={cache_dir}", "backbone.dtype=float32")
    return planned(*read_config(compose_config(words)), makes_results=True)


@pytest.fixture
def product_rate(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr("knowcusbench.machine.rates.product_rates", lambda device: {torch.float32: 1e11})
    return 1e11


def test_it_tells_what_is_missing_how_long_it_takes_and_where_results_appear(run, tmp_path, product_rate):
    line = forecast(run, STAGES, tmp_path)
    work = work_of(run)
    minutes = (work.training + work.sampling) / (module.SHARES["cpu", "float32"] * product_rate) / 60
    assert line.startswith(
        f"mokus: 8 adaptations, 520 images, {work.effect_images} pictures of effects, scores (CLIP-I, "
    )
    assert f"; about {minutes:.1f} minutes with 1 worker (guessed from a float32 matrix product here); " in line
    assert line.endswith(f"results in {run.store.root}")


def test_what_is_there_is_not_counted(run, tmp_path, product_rate):
    jobs = adapt_jobs(run.concepts, run.method)
    for job in jobs[:3]:
        record(run, job, seconds=1.0)
    assert forecast(run, ["adapt"], tmp_path).startswith("mokus: 5 adaptations; about ")
    for job in jobs[3:]:
        record(run, job, seconds=1.0)
    assert forecast(run, ["adapt", "report"], tmp_path) == f"mokus: tables and pages; results in {run.store.root}"


def test_the_next_command_reckons_with_what_this_one_measured(run, tmp_path, product_rate):
    work = work_of(run)
    for job in adapt_jobs(run.concepts, run.method):
        record(run, job, seconds=10.0)
    append_line(run.store.journal("mokus", "w"), {"stage": "generate", "concept": "x", "prompts": 3, "seconds": 20.0})
    append_line(run.store.journal("mokus", "w"), {"stage": "generate", "concept": "x", "images": 100, "seconds": 80.0})
    keep_pace(run, tmp_path)
    # 520 images and those of the effects take a second each: encoding counts as drawing.
    seconds = 520 + work.effect_images
    line = forecast(run, ["generate", "effects"], tmp_path)
    assert f"about {seconds / 60:.1f} minutes with 1 worker (measured by earlier commands here)" in line


def record(run: Run, job, seconds: float) -> None:
    save_adaptation(Adaptation(cost=Cost(seconds={"train": seconds})), adaptation_path(run.store, run.label, job))


def test_a_plan_says_which_edited_layers_reach_no_picture(run, monkeypatch):
    assert "no picture" not in plan_summary(run, 1.0)
    monkeypatch.setattr(type(run.backbone.family), "taps", lambda self, count: (4,))
    assert f"{'edit targets':>14}  layers 4 to 5 change answers, no picture" in plan_summary(run, 1.0).splitlines()
