"""The examples of the pages run as printed, and keep the contracts that they are examples of."""

import json
import sys
import types

import pytest
import torch
import yaml
from docs.documents import ROOT, blocks
from PIL import Image
from safetensors.torch import load_file, save_file

from knowcusbench.benchmark import check_benchmark
from knowcusbench.benchmark.types import Fact
from knowcusbench.config.build import build
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.testing import check_metric

EXTENDING = ROOT / "docs" / "extending.md"


def block(heading, language, number=0):
    found = [b.text for b in blocks(EXTENDING) if (b.heading, b.language) == (heading, language)]
    return found[number]


@pytest.fixture
def example(monkeypatch):
    """The class under a heading, made from the YAML under it as the command would."""

    def make(heading, **values):
        node = yaml.safe_load(block(heading, "yaml"))
        node = node if "_target_" in node else next(iter(node.values()))
        module = types.ModuleType(node["_target_"].rpartition(".")[0])
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(block(heading, "python"), module.__name__, "exec"), module.__dict__)
        return build({**node, **values}, "example")

    return make


def test_the_metric_keeps_the_contract(example, tmp_path):
    items = []
    for name, colour in {"dark": "black", "middle": "gray", "light": "white"}.items():
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
        items.append(ScoreItem(name, tmp_path / f"{name}.png", (), "a photo of {}", "dog"))
    metric = example("A metric")
    check_metric(metric, items, tmp_path)
    assert [score.value for score in metric.score(items)] == [0.0, pytest.approx(128 / 255), 1.0]
    # Its name in the YAML is that by which it is chosen.
    assert list(yaml.safe_load(block("A metric", "yaml"))) == [metric.name]


def test_the_editor_teaches_a_fact(example, backbone_fp32):
    editor = example("An editor", layers=[0, 1, 2], rounds=3)
    edited = editor.edit([Fact("What is my birthday gift?", "sks dog")], backbone_fp32)
    losses = edited.details["edit_losses_before_rounds"]
    assert losses[-1] < losses[0]
    assert set(edited.details["edit_ranks"]) <= {1, 2, 3}


def test_the_benchmark_is_one(tmp_path):
    for name in ("concept_image/dog3", "knowledge_data"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "concept_image" / "dog3" / f"{number}.png")
    for number, name in enumerate(("concept_image/dataset.json", "knowledge_data/dog3.json")):
        json.loads(block("A benchmark", "json", number))
        (tmp_path / name).write_text(block("A benchmark", "json", number))
    report = check_benchmark(tmp_path)
    assert not report.faults


def test_the_check_of_a_method_is_the_one_that_there_is():
    module = types.ModuleType("example")
    exec(compile(block("A method", "python"), "example", "exec"), module.__dict__)
    assert callable(module.test_my_method)
    from knowcusbench.testing import check_method, embedded_case

    assert (module.check_method, module.embedded_case) == (check_method, embedded_case)


def test_the_conversion_of_a_lora_gives_what_is_read(tmp_path, monkeypatch):
    (source,) = [b.text for b in blocks(ROOT / "docs" / "running.md") if b.language == "python"]
    monkeypatch.chdir(tmp_path)
    module = "transformer_blocks.0.attn.to_k"
    factors = {"lora_A": torch.randn(2, 8), "lora_B": torch.randn(8, 2)}
    save_file(
        {f"base_model.model.{module}.{name}.weight": value for name, value in factors.items()}, "theirs.safetensors"
    )
    exec(compile(source, "example", "exec"), {})
    (written,) = (tmp_path / "visual_ckpt" / "dog").glob("*.safetensors")
    found = load_file(written)
    assert {name: found[f"transformer.{module}.{name}.weight"].tolist() for name in factors} == {
        name: value.tolist() for name, value in factors.items()
    }


def test_every_example_is_run():
    """A block that this file and `test_readme.py` do not know would go unnoticed."""
    headings = ("A metric", "An editor", "Add your method")
    known = {(heading, language) for heading in headings for language in ("python", "yaml")}
    known |= {
        ("Use it from Python", "python"),
        ("A method", "python"),
        ("A benchmark", "json"),
        ("LoRAs of other trainers", "python"),
    }
    found = {
        (b.heading, b.language)
        for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for b in blocks(document)
        if b.language in ("python", "yaml", "json")
    }
    assert found == known
