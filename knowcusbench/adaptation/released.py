"""The stage-1 LoRA that a benchmark's release ships for a concept (`visual_ckpt/<concept>/`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from knowcusbench.adaptation.types import Adaptation, Adapter
from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import MethodError, WeightsError
from knowcusbench.finite import not_finite

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "transformer."
"""What diffusers puts before the module names of a transformer's LoRA."""

SPELLINGS = {
    ".lora_A.weight": ".lora_A.weight",
    ".lora_B.weight": ".lora_B.weight",
    ".lora.down.weight": ".lora_A.weight",
    ".lora.up.weight": ".lora_B.weight",
}
"""The endings of a factor's name in diffusers' files, old and new."""


def load_released(concept: Concept) -> Adaptation:
    """The concept's released adapter. Its cost is unknown and stays empty.

    Raises MethodError if the release has none, WeightsError if it can't be read.
    """
    directory = concept.visual_checkpoint
    if directory is None:
        raise MethodError(
            f"concept {concept.name!r} has no visual_ckpt/{concept.name}/ in the benchmark; "
            "set recipe.dreambooth.use_released=false to train its LoRA"
        )
    files = sorted(directory.glob("*.safetensors"))
    if len(files) != 1:
        raise WeightsError(f"{directory}: expected one .safetensors file, found {len(files)}")
    return Adaptation(transformer=read_diffusers_lora(files[0]), details={"released": files[0].name})


def read_diffusers_lora(path: Path) -> Adapter:
    """A transformer LoRA as diffusers saves it (`pytorch_lora_weights.safetensors`).

    The scaling comes from the file: `<module>.alpha` tensors, else the `lora_alpha` of its metadata, else alpha is the
    rank, as in diffusers. It is folded into `lora_B`, so that the adapter's own scaling is one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: can't be read ({error}); download the release again") from error
    if name := not_finite(tensors):
        raise WeightsError(f"{path}: {name} has NaN or infinity, from a training that diverged; use another file")
    named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    downs, ups, alphas = _factors(path, named)
    default_alpha = _metadata_alpha(metadata)
    if unpaired := sorted(downs.keys() ^ ups.keys()):
        raise WeightsError(f"{path}: {unpaired[0]} lacks one of its two factors; download the release again")
    factors = {}
    for module, down in downs.items():
        rank = down.shape[0]
        alpha = alphas.get(module, default_alpha if default_alpha is not None else rank)
        factors[module] = (down, ups[module] * (alpha / rank))
    if not factors:
        raise WeightsError(f"{path}: holds no LoRA of a transformer")
    return Adapter.from_factors(factors)


def _factors(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for name, tensor in tensors.items():
        if name.endswith(".alpha"):
            alphas[name.removesuffix(".alpha")] = float(tensor)
            continue
        ending = next((ending for ending in SPELLINGS if name.endswith(ending)), None)
        if ending is None:
            raise WeightsError(f"{path}: {name!r} is not part of a transformer's LoRA")
        (downs if "lora_A" in SPELLINGS[ending] else ups)[name.removesuffix(ending)] = tensor
    return downs, ups, alphas


def _metadata_alpha(metadata: Mapping[str, str]) -> float | None:
    """`lora_alpha` of the adapter metadata that recent diffusers versions put into the file's header."""
    if "lora_adapter_metadata" not in metadata:
        return None
    fields = json.loads(metadata["lora_adapter_metadata"])
    alpha = fields.get(f"{PREFIX}lora_alpha")
    return None if alpha is None else float(alpha)
