"""LoRA files written by diffusers or in its format; other formats are refused, naming the tensor or field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from knowcusbench.adapters.types import Adapter
from knowcusbench.errors import WeightsError
from knowcusbench.storage.files import LFS_POINTER
from knowcusbench.storage.finite import not_finite

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "transformer."
"""The prefix that diffusers puts before the module names of a transformer's LoRA."""


FACTOR_SUFFIXES = {
    ".lora_A.weight": ".lora_A.weight",
    ".lora_B.weight": ".lora_B.weight",
    ".lora.down.weight": ".lora_A.weight",
    ".lora.up.weight": ".lora_B.weight",
}
"""Suffixes of a factor's name in diffusers' files, old and new, and our names for them."""


OTHER_TRAINERS = (
    (r"lora_unet_", "kohya-ss or musubi-tuner"),
    (r"lora_te\d*_", "kohya-ss"),
    (r"diffusion_model\.", "ai-toolkit or ComfyUI"),
    (r"base_model\.model\.", "PEFT"),
    (r".*\.lora_[AB]\.default\.weight$", "PEFT or DiffSynth-Studio"),
    (r".*\.lora_(?:down|up)\.weight$", "lightx2v"),
)
"""Patterns of tensor names by which other trainers' files are recognised."""


METADATA = "lora_adapter_metadata"
"""The header entry in which recent diffusers versions store the fields of PEFT's `LoraConfig`."""


_READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}


_WITHOUT_EFFECT = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"}
_WITHOUT_EFFECT |= {"peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping"}
_WITHOUT_EFFECT |= {"peft_version", "megatron_core", "qalora_group_size", "eva_config"}


_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the model's own weights alone."""


def read_diffusers_lora(path: Path) -> Adapter:
    """Read a transformer LoRA in diffusers' format (`pytorch_lora_weights.safetensors`), scaled as diffusers scales it.

    The scaling comes from `<module>.alpha` tensors, else from the metadata (rank, alpha, their patterns, and whether
    the scaling is stabilised by the root of the rank); otherwise alpha equals the rank. It is folded into `lora_B`, so
    that the adapter's own scaling is one.

    Raises WeightsError, naming the tensor or field, for anything but a plain floating-point LoRA: another trainer's
    format, integers, NaN, an alpha of 0, DoRA, biases, and initialisations (PiSSA, OLoRA, ...) that change the model's
    own weights.
    """
    try:
        with path.open("rb") as beginning:
            if beginning.read(len(LFS_POINTER)) == LFS_POINTER:
                raise WeightsError(f"{path}: a Git LFS pointer in place of the file; run `git lfs pull`")
        with safe_open(path, framework="pt") as file:
            tensors = {name: _numbers(path, name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: can't be read ({error}); download the release again") from error
    for name in tensors:
        _refuse_other_format(path, name)
    if name := not_finite(tensors):
        raise WeightsError(f"{path}: {name} has NaN or infinity, from a training that diverged; use another file")
    named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    downs, ups, alphas = _factors(path, named)
    if unpaired := sorted(downs.keys() ^ ups.keys()):
        raise WeightsError(f"{path}: {unpaired[0]} lacks one of its two factors; download the release again")
    if stray := sorted(alphas.keys() - downs.keys()):
        raise WeightsError(f"{path}: {stray[0]}.alpha belongs to no LoRA; download the release again")
    if not downs:
        raise WeightsError(f"{path}: holds no LoRA of a transformer")
    scaling = _metadata_scaling(path, metadata)
    factors = {}
    for module, down in downs.items():
        rank = down.shape[0]
        scale = scaling(module, rank)
        if module in alphas:
            if not math.isclose(scale, 1.0):
                raise WeightsError(f"{path}: {module} has an alpha as a tensor and another in the metadata; remove one")
            scale = alphas[module] / rank
        if scale == 0:
            raise WeightsError(f"{path}: the alpha of {module} is 0, so it would do nothing; give it the right one")
        factors[module] = (down, ups[module] * scale)
    return Adapter.from_factors(factors)


def _numbers(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise WeightsError(f"{path}: {name} is in {kind}, expected floating-point numbers; convert it first")
    return tensor.float()


def _refuse_other_format(path: Path, name: str) -> None:
    for beginning, trainer in OTHER_TRAINERS:
        if re.match(beginning, name.removeprefix(PREFIX)):
            raise WeightsError(
                f"{path}: {name!r} is a name of {trainer}, expected diffusers' form; convert it as docs/running.md says"
            )
    if name.startswith("text_encoder"):
        raise WeightsError(f"{path}: {name!r} belongs to a text encoder; only a transformer's LoRA can be used")


def _factors(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for name, tensor in tensors.items():
        if name.endswith(".alpha"):
            if tensor.numel() != 1:
                raise WeightsError(f"{path}: {name} has shape {tuple(tensor.shape)}, expected one number")
            alphas[name.removesuffix(".alpha")] = float(tensor)
            continue
        ending = next((ending for ending in FACTOR_SUFFIXES if name.endswith(ending)), None)
        if ending is None:
            raise WeightsError(f"{path}: {name!r} is not part of a transformer's LoRA")
        (downs if "lora_A" in FACTOR_SUFFIXES[ending] else ups)[name.removesuffix(ending)] = tensor
    return downs, ups, alphas


def _metadata_scaling(path: Path, header: Mapping[str, str]) -> Callable[[str, int], float]:
    """Return a function from a module's name and rank to its scaling by the metadata; always 1 without metadata."""
    if METADATA not in header:
        return lambda module, rank: 1.0
    try:
        fields = json.loads(header[METADATA])
        fields = {name.removeprefix(PREFIX): value for name, value in fields.items() if name.startswith(PREFIX)}
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: its {METADATA} can't be read ({error}); download the release again") from error
    if not fields:
        return lambda module, rank: 1.0
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    _refuse_fields(path, fields)
    try:
        config = LoraConfig(**{name: fields[name] for name in _READ & fields.keys()})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its {METADATA} can't be used ({error})") from error

    def scaling(module: str, rank: int) -> float:
        expected = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), module), config.r)
        if expected != rank:
            raise WeightsError(
                f"{path}: {module} has rank {rank}, but the metadata says {expected}; correct r or rank_pattern"
            )
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
        return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)

    return scaling


def _refuse_fields(path: Path, fields: Mapping[str, Any]) -> None:
    """Refuse fields that would change the meaning of the tensors and are not read."""
    from peft import LoraConfig

    defaults = LoraConfig().to_dict()
    for name, value in fields.items():
        if name == "init_lora_weights":
            usable = value in _INITIALISATIONS
        else:
            usable = name in _READ | _WITHOUT_EFFECT or not value or value == defaults.get(name)
        if not usable:
            raise WeightsError(f"{path}: {name}={value!r} of its metadata can't be used; only a plain LoRA can")
