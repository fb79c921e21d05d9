"""Quantised weights of the transformer, through diffusers."""

import importlib.util
from typing import TYPE_CHECKING, Any, Literal, get_args

from knowcusbench.errors import ConfigError

if TYPE_CHECKING:
    import torch

Quantization = Literal["torchao_int8", "torchao_float8", "bitsandbytes_nf4"]
"""Weight-only: activations and adapters stay in the backbone's dtype."""

BYTES_PER_PARAMETER: dict[str | None, float] = {
    "torchao_int8": 1,
    "torchao_float8": 1,
    # Four bits, and an fp32 scale for each block of 64.
    "bitsandbytes_nf4": 0.5 + 4 / 64,
}
"""Of the transformer's weights; nearly all are in linear layers, the ones that are quantised."""


def quantization_config(name: Quantization, dtype: "torch.dtype") -> Any:
    """What diffusers' `from_pretrained` takes. Raises ConfigError, with the pip command, for a missing package."""
    package = name.partition("_")[0]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"backbone.quantization: {name} needs {package}: pip install {package}")
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    if name == "bitsandbytes_nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if name == "torchao_int8" else Float8WeightOnlyConfig())


assert set(BYTES_PER_PARAMETER) == set(get_args(Quantization))
