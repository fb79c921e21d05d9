import pytest
import torch
from conftest import miniature_spec
from diffusers import QwenImageTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from knowcusbench.adapters.lora import trainable
from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.counting import transformer_flops
from knowcusbench.backbone.published import published_checkpoint

TOKENS = QwenImageSpec.family.counted_tokens


@pytest.mark.model
def test_full_size_counts_are_those_of_qwen_image():
    """20.43 B parameters; at 1024 x 1024 and 64 tokens a forward is 69 TFLOP, as the formula of its blocks says."""
    checkpoint = published_checkpoint(QwenImageSpec.family, "Qwen/Qwen-Image")
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel()
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 20_430_401_088
    image, text, width = 4096, TOKENS, 3072
    linear = 2 * (image + text) * width * width * (4 + 8) + 2 * 2 * 6 * width * width
    attention = 4 * (image + text) ** 2 * width
    outside = 2 * image * width * 64 * 2 + 2 * text * 3584 * width
    expected = 60 * (linear + attention) + outside
    counted = transformer_flops(checkpoint, transformer, height=1024, width=1024)
    assert abs(counted / expected - 1) < 1e-3
    # Counted independently at about 70 tokens of text: 69.45 TFLOP.
    assert abs(counted / 69.45e12 - 1) < 3e-3


def test_a_checkpoint_is_counted_from_its_configuration_files(miniature, backbone):
    spec = miniature_spec(miniature)
    footprint = spec.footprint()
    for name in ("transformer", "text_encoder"):
        loaded = sum(parameter.numel() for parameter in getattr(backbone, name).parameters())
        assert footprint.parameters[name] == loaded
    assert footprint.weight_bytes == {
        name: spec.torch_dtype.itemsize * count for name, count in footprint.parameters.items()
    }


def test_a_training_step_costs_about_three_forwards(miniature):
    """Against the operations counted while a LoRA step with gradient checkpointing runs, with attention written out,
    since not every version of torch counts the fused kernel on the CPU."""
    spec = miniature_spec(miniature, gradient_checkpointing=True, attention="_native_math")
    backbone = spec.load()
    embeds = PromptEmbeds(torch.zeros(1, TOKENS, 192, dtype=spec.torch_dtype), None)
    with (
        trainable(backbone.transformer, backbone.lora_targets, rank=1, alpha=1, seed=0),
        FlopCounterMode(display=False) as counter,
    ):
        backbone.velocity(torch.zeros(1, 8, 16, 16), torch.tensor([0.5]), embeds).mean().backward()
    assert counter.get_total_flops() == pytest.approx(spec.footprint().training_step_flops, rel=0.15)


def test_guidance_and_steps_multiply_the_cost(miniature):
    two = miniature_spec(miniature, steps=2, true_cfg_scale=1.0).footprint().image_flops
    four = miniature_spec(miniature, steps=2, true_cfg_scale=4.0).footprint().image_flops
    ten = miniature_spec(miniature, steps=5, true_cfg_scale=4.0).footprint().image_flops
    assert ten - four == 3 * (four - two)
