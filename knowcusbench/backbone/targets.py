"""Which linear layers of a model are adapted and edited, by their full names."""

from collections.abc import Sequence

from torch import nn

from knowcusbench.adapters.lora import adapted_layers
from knowcusbench.backbone.family import Family
from knowcusbench.errors import ConfigError


def lora_targets(family: Family, transformer: nn.Module) -> tuple[str, ...]:
    """Return full names of the layers that LoRA adapts by default, block by block."""
    return adapted_layers(transformer, family.lora_layers)


def language_modules(
    family: Family, text_encoder: nn.Module, layer_count: int, names: Sequence[str], layers: Sequence[int]
) -> tuple[str, ...]:
    """Return full names of the linear layers with these short names in these decoder layers, layer by layer.

    Raises ConfigError for a name or layer that the language model does not have.
    """
    found = []
    for index in layers:
        if not 0 <= index < layer_count:
            raise ConfigError(f"layer {index}: the text encoder has layers 0 to {layer_count - 1}")
        prefix = family.decoder_layer.format(index)
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
