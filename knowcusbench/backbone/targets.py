"""Which linear layers of Qwen-Image are adapted and edited, by their full names."""

from collections.abc import Sequence

from torch import nn

from knowcusbench.adapters.lora import adapted_layers
from knowcusbench.errors import ConfigError

LORA_LAYERS = ("to_k", "to_q", "to_v", "to_out.0")
"""The image stream's attention projections: the LoRA targets of diffusers' DreamBooth trainer
(`examples/dreambooth/train_dreambooth_lora_qwen_image.py`). The text stream's are `add_{q,k,v}_proj`, `to_add_out`."""

DECODER_LAYER = "model.language_model.layers.{}"
"""A decoder layer of the language model. Short names such as `gate_proj` also occur in the vision tower."""


def lora_targets(transformer: nn.Module) -> tuple[str, ...]:
    """Full names of the attention projections of the image stream, block by block."""
    return adapted_layers(transformer, [f"attn.{layer}" for layer in LORA_LAYERS])


def language_modules(
    text_encoder: nn.Module, layer_count: int, names: Sequence[str], layers: Sequence[int]
) -> tuple[str, ...]:
    """Full names of the linear layers with these short names in these decoder layers, layer by layer.

    Raises ConfigError for a name or layer that the language model does not have.
    """
    found = []
    for index in layers:
        if not 0 <= index < layer_count:
            raise ConfigError(f"layer {index}: the text encoder has layers 0 to {layer_count - 1}")
        prefix = DECODER_LAYER.format(index)
        linears = {
            name.rpartition(".")[2]: name
            for name, module in text_encoder.get_submodule(prefix).named_modules()
            if isinstance(module, nn.Linear)
        }
        for name in names:
            if name not in linears:
                known = ", ".join(sorted(linears))
                raise ConfigError(f"module {name!r}: the text encoder's layers have {known}")
            found.append(f"{prefix}.{linears[name]}")
    return tuple(found)
