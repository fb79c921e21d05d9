"""What is counted on models without storage is what a run allocates, and what the published shapes are."""

import json
from pathlib import Path

import pytest
import torch
from conftest import miniature_spec
from torch import nn

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.memory import PeakBytes
from knowcusbench.backbone.published import published_shapes

FULL = QwenImageSpec(source="Qwen/Qwen-Image")


def test_the_peak_is_that_of_tensors_alive_at_once() -> None:
    with PeakBytes() as meter:
        first = torch.empty(1000, dtype=torch.uint8, device="meta")
        second = first + 1  # 2,000 alive
        view = second[:10]
        del first
        third = view.repeat(50)  # 1,500
        del second, view
        fourth = torch.empty(900, dtype=torch.uint8, device="meta")  # 1,400
    assert meter.peak == 2000
    assert meter.now == 1400
    del third, fourth


def test_saved_activations_count_until_the_backward() -> None:
    """Three layers of width 100 on 10 rows keep their fp32 inputs, against the arithmetic by hand."""
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(100, 100, bias=False), nn.Sigmoid()) for _ in range(3))).to("meta")
    with PeakBytes() as kept:
        loss = layers(torch.empty(10, 100, device="meta", requires_grad=True)).sum()
    # The input, three outputs of sigmoid that its gradient needs, the loss; one output of a linear layer at a time.
    assert kept.now == 4 * 10 * 100 * 4 + 4
    assert kept.peak == 4 * 10 * 100 * 4 + 4000
    del loss


@pytest.mark.model
def test_checkpointing_offload_tiles_and_quantisation_need_less_in_turn() -> None:
    """Of Qwen-Image at full size, without a network. Its weights in bf16 are 53.7 GiB."""
    gib = 2**30
    need = FULL.memory(4)
    assert 53.7 * gib < need.encoding < 54 * gib
    assert 54 * gib < need.training < 58 * gib
    assert 54 * gib < need.drawing < 80 * gib
    smaller = dict(FULL.smaller())
    assert next(iter(smaller)) == "backbone.offload=text_encoder"
    peaks = [max(vars(spec.memory(4)).values()) for spec in smaller.values()]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < 16 * gib
    # Activations of all blocks at once: facts of diffusers' trainer have about 75 GiB of a transformer of 38.
    without = QwenImageSpec(source="Qwen/Qwen-Image", gradient_checkpointing=False).memory(16)
    assert 25 * gib < without.training - need.training < 40 * gib


def test_the_published_shapes_are_those_of_the_paper(offline_hub: Path) -> None:
    skeleton = FULL.skeleton()
    counts = {
        "transformer": sum(parameter.numel() for parameter in skeleton.transformer.parameters()),
        "text_encoder": sum(parameter.numel() for parameter in skeleton.text_encoder.parameters()),
    }
    assert counts["transformer"] == 20_430_401_088
    assert round(counts["text_encoder"] / 1e9, 3) == 8.292
    assert round(published_shapes()["Qwen/Qwen-Image"]["parameters"]["vae"] / 1e6, 1) == 126.9
    assert counts.items() <= skeleton.expected_parameters.items()
    assert len(skeleton.lora_targets) == 240
    names = skeleton.text_modules(["gate_proj", "up_proj"], range(18, 26))
    assert len(names) == 16
    assert {tuple(skeleton.text_encoder.get_parameter(f"{name}.weight").shape) for name in names} == {(18944, 3584)}
    assert "model.language_model.layers.18.mlp.gate_proj" in names


def test_a_copy_of_the_checkpoint_is_counted_by_its_own_files(cached_miniature: Path, miniature: Path) -> None:
    repository = cached_miniature.parents[1]
    repository.rename(repository.with_name("models--Qwen--Qwen-Image"))
    spec = QwenImageSpec(source="Qwen/Qwen-Image", height=64, width=64, steps=3)
    assert spec.footprint() == miniature_spec(miniature, dtype=spec.dtype).footprint()
    layers = json.loads((miniature / "transformer" / "config.json").read_text())["num_layers"]
    assert len(spec.skeleton().lora_targets) == 4 * layers
