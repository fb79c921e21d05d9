"""The counts behind the benchmark's floor."""

from dataclasses import replace

import torch
from torch import nn

from knowcusbench.adaptation.dreambooth import DreamBooth
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.timing.floor import cell_flops, counted, lines, step_flops

TRAINING = DreamBooth(steps=1, learning_rate=1e-3, rank=2, alpha=2, batch_size=2)


def test_a_forward_counts_what_its_layers_multiply(backbone_fp32: DiffusersBackbone) -> None:
    """By hand: 2 x rows x inputs x outputs of every linear layer, and two products of all tokens per head."""
    products: list[int] = []

    def note(layer: nn.Linear, arguments: tuple[torch.Tensor, ...]) -> None:
        products.append(2 * arguments[0].numel() * layer.out_features)

    transformer = backbone_fp32.transformer
    embeds = backbone_fp32.encode("a red robot")
    latents, sigma = torch.zeros(2, 8, 16, 16), torch.full((2,), 0.5)
    handles = [
        module.register_forward_pre_hook(note) for module in transformer.modules() if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        found = counted(lambda: backbone_fp32.velocity(latents, sigma, embeds))
    for handle in handles:
        handle.remove()
    tokens, width = 64 + embeds.embeds.shape[1], transformer.config.num_attention_heads * 32
    attention = 2 * 2 * transformer.config.num_layers * 2 * tokens**2 * width
    assert found == sum(products) + attention


def test_training_and_drawing_grow_with_the_batch(backbone_fp32: DiffusersBackbone) -> None:
    assert cell_flops(backbone_fp32, 4) == 2 * cell_flops(backbone_fp32, 2)
    twice = step_flops(backbone_fp32, replace(TRAINING, batch_size=4))
    assert twice == 2 * step_flops(backbone_fp32, TRAINING)


def test_a_line_for_each_stage_says_how_far_it_is_from_the_floor() -> None:
    found = lines({"adapt": 30.0, "score": 6.0}, {"adapt": 2e12}, rate=100e9)
    assert "products at 100 GFLOP/s" in found[0]
    assert found[2].split() == ["adapt", "2.00", "20.0", "30.0", "1.50", "times", "the", "floor"]
    assert found[3].split() == ["score", "6.0"]
    assert found[4].split() == ["all", "2.00", "20.0", "36.0", "1.80", "times", "the", "floor"]
