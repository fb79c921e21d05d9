"""The names at full size, on models without storage."""

import copy

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from knowcusbench.adapters.lora import adapted_layers
from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.targets import language_modules, lora_targets
from knowcusbench.errors import ConfigError

QWEN = QwenImageSpec.family

# What config.json of Qwen2.5-VL-7B says, in the flat form that it was published in.
SEVEN_BILLION = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "vision_config": {"hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "out_hidden_size": 3584},
}


@pytest.fixture(scope="module")
def text_encoder() -> nn.Module:
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(SEVEN_BILLION))


def test_lora_adapts_four_projections_of_the_image_stream_in_each_of_sixty_blocks():
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel()
    targets = lora_targets(QWEN, transformer)
    assert set(targets) == {
        f"transformer_blocks.{block}.attn.{layer}"
        for block in range(60)
        for layer in ("to_q", "to_k", "to_v", "to_out.0")
    }
    assert len(targets) == 240
    assert {tuple(transformer.get_submodule(name).weight.shape) for name in targets} == {(3072, 3072)}


def test_layers_are_named_by_the_ends_of_their_names_as_peft_does() -> None:
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel(num_layers=12)
    names = ["to_out.0", "transformer_blocks.1.txt_mlp.net.2", "add_k_proj"]
    config = LoraConfig(r=1, target_modules=names)
    adapted = inject_adapter_in_model(config, copy.deepcopy(transformer))
    expected = [name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)]
    assert len(expected) == 25
    assert adapted_layers(transformer, names) == tuple(expected)
    assert adapted_layers(transformer, ["proj_out"]) == ("proj_out",)
    with pytest.raises(ConfigError, match=r"'k_proj'.*attn\.add_k_proj"):
        adapted_layers(transformer, ["to_q", "k_proj"])
    with pytest.raises(ConfigError, match=r"'attn'"):
        adapted_layers(transformer, ["attn"])


def test_edits_reach_the_language_model_and_never_the_vision_tower(text_encoder):
    assert sum(parameter.numel() for parameter in text_encoder.parameters()) == 8_292_166_656
    names = language_modules(QWEN, text_encoder, 28, ["gate_proj", "up_proj"], range(18, 26))
    assert names == tuple(
        f"model.language_model.layers.{layer}.mlp.{module}"
        for layer in range(18, 26)
        for module in ("gate_proj", "up_proj")
    )
    assert {tuple(text_encoder.get_submodule(name).weight.shape) for name in names} == {(18944, 3584)}
    suffixed = [name for name, _ in text_encoder.named_modules() if name.endswith("gate_proj")]
    assert len(suffixed) == 28 + 32


def test_attention_projections_can_be_named_too(text_encoder):
    assert language_modules(QWEN, text_encoder, 28, ["q_proj"], [0]) == (
        "model.language_model.layers.0.self_attn.q_proj",
    )


@pytest.mark.parametrize(
    ("names", "layers", "named"),
    [(["gate"], [0], "gate"), (["up_proj"], [28], "layer 28"), (["up_proj"], [-1], "layer -1")],
)
def test_targets_that_do_not_exist_are_named(text_encoder, names, layers, named):
    with pytest.raises(ConfigError, match=named):
        language_modules(QWEN, text_encoder, 28, names, layers)
