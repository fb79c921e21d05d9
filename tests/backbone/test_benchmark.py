"""The benchmark of a GPU, with small shapes on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from knowcusbench.backbone.benchmark import (
    Rates,
    forward_flops,
    full_size,
    image_size,
    main,
    random_backbone,
    small_size,
)
from knowcusbench.backbone.qwen_image import QwenImageSpec
from knowcusbench.device import fast_dtype

pytestmark = pytest.mark.model


def test_the_floor_is_the_longer_of_computing_and_reading() -> None:
    rates = Rates(bf16=100e12, fp32=10e12, bandwidth=1e12)
    assert rates.floor(200e12, 1e12, torch.bfloat16) == (2.0, "200 TFLOP")
    assert rates.floor(200e12, 1e12, torch.float32) == (20.0, "200 TFLOP")
    assert rates.floor(1e12, 3e12, torch.bfloat16) == (3.0, "3e+03 GB")


def test_every_piece_is_timed_once_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "benchmark.json"
    words = ["--device", "cpu", "--output", str(output), "--steps", "2", "--batch", "2"]
    main([*words, "--only", "edit", "metrics"])
    first = json.loads(output.read_text())
    assert set(first["pieces"]) == {"edit", "metrics"}
    main(words)
    result = json.loads(output.read_text())
    assert set(result["pieces"]) == {"edit", "metrics", "training", "sampling 2"}
    assert all(result["pieces"][piece] == first["pieces"][piece] for piece in first["pieces"])
    for timing in (timing for timings in result["pieces"].values() for timing in timings):
        assert min(timing["seconds"], timing["floor"], timing["peak_memory_bytes"]) > 0
    printed = capsys.readouterr().out
    assert "Small shapes on a CPU" in printed
    assert f"dtype={fast_dtype(torch.device('cpu'))}" in printed
    assert "| stage 2: edit of 5 items |" in printed
    assert not result["machine"]["full_size"]
    main([*words, "--offload", "text_encoder", "--only", "edit"])
    assert set(json.loads(output.read_text())["pieces"]) == {"edit"}


@pytest.mark.parametrize("prompt", ["a dog", "a photo of sks dog on the beach"])
def test_the_operations_of_a_pass_are_those_of_the_prompt_that_is_timed(prompt: str) -> None:
    """Counted while the transformer runs, without the CPU's fused attention, of which the counter knows nothing."""
    size = small_size()
    spec = QwenImageSpec(
        source="random", dtype="float32", height=64, width=64, steps=2, device="cpu", gradient_checkpointing=False
    )
    backbone = random_backbone(size, spec, torch.device("cpu"))
    embeds = backbone.encode(prompt)
    edge = 2 * size.image // size.checkpoint.pixels_per_token
    latents = torch.randn(1, size.checkpoint.vae["z_dim"], edge, edge)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.velocity(latents, torch.tensor([0.5]), embeds)
    assert forward_flops(size, embeds) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_random_weights_draw_finite_images_that_are_no_noise_of_nan() -> None:
    size = small_size()
    spec = QwenImageSpec(source="random", dtype="float32", height=64, width=64, steps=2, device="cpu")
    backbone = random_backbone(size, spec, torch.device("cpu"))
    embeds = backbone.encode("a photo")
    assert embeds.embeds.isfinite().all()
    velocity = backbone.velocity(torch.randn(1, size.checkpoint.vae["z_dim"], 8, 8), torch.tensor([0.5]), embeds)
    assert velocity.isfinite().all()
    assert velocity.std() > 0


@pytest.mark.parametrize("name", ["DINO ViT-S/16", "CLIP ViT-B/32"])
def test_the_encoders_at_full_size_are_the_published_ones(name: str) -> None:
    _, build = full_size().encoders[name]
    model = build()
    count = sum(parameter.numel() for parameter in model.parameters())
    # dino_vits16 has 21.7 M parameters, CLIP's image tower with projection 87.8 M.
    assert round(count / 1e6, 1) == {"DINO ViT-S/16": 21.7, "CLIP ViT-B/32": 87.8}[name]
    assert image_size(model) == (224, 224)
