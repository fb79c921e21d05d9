"""The output of a method: LoRA adapters for the backbone's modules, and their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Factors = Mapping[str, tuple["Tensor", "Tensor"]]
"""Factors `(down, up)` of shapes (r, in_features) and (out_features, r) by the module's full name: `up @ down` is added
to the module's weight."""

Initialization = Literal["gaussian", "uniform"]
"""Distribution of the initial `lora_A` (PEFT's `init_lora_weights`): `gaussian` is N(0, 1 / rank^2); `uniform` is
PEFT's default, +-1 / sqrt(in_features). `lora_B` begins at zero."""


@dataclass(frozen=True)
class Cost:
    """Time and memory that an adapter or adaptation took.

    Attributes:
        seconds: wall-clock seconds by stage ("visual", "textual", ...).
        peak_memory_bytes: highest device memory (CUDA) or resident memory (CPU) during the work.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def __add__(self, other: Cost) -> Cost:
        seconds = dict(self.seconds)
        for stage, value in other.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
        return Cost(seconds, max(self.peak_memory_bytes, other.peak_memory_bytes))


@dataclass(frozen=True)
class Gate:
    """A gate that lets an adapter act only on inputs close to known ones.

    At an input x of a layer, the layer's change is multiplied by `sigmoid((similarity - bias) / temperature)`. The
    similarity is the highest cosine between x and the layer's keys: Perfusion's gate (arXiv 2305.01644, section 4.3)
    with the plain cosine in place of the one whitened by the keys' covariance.

    Attributes:
        keys: fp32 CPU tensors (m, in_features), by the layer's full name.
        temperature: softness of the gate.
        bias: the cosine at which the gate is half open.
        parts: for each layer of a sum of gated adapters, the rank and number of keys of each adapter, in the order of
            the factors and keys; each adapter's keys gate its own ranks. Empty for a single adapter.
    """

    keys: Mapping[str, Tensor]
    temperature: float
    bias: float
    parts: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapter:
    """A LoRA of one module of the backbone, in PEFT's terms.

    Attributes:
        weights: fp32 CPU tensors, `<module>.lora_A.weight` of shape (r, in_features) and `<module>.lora_B.weight` of
            shape (out_features, r); `<module>` is the full dotted name inside the adapted model.
        config: the fields of `peft.LoraConfig` that differ from its defaults (`r`, `lora_alpha`, `target_modules`, and
            `rank_pattern`/`alpha_pattern` where ranks differ between modules).
        merged: whether the backbone adds the adapter to its weights, rounded to their dtype, instead of computing it
            separately. The weights are put back afterwards.
        gate: restricts where the adapter acts; None for everywhere. A merged adapter can't have one.
    """

    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]
    merged: bool = False
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if self.merged and self.gate:
            raise ValueError("an adapter with a gate depends on its input and can't be merged into weights")

    @staticmethod
    def from_factors(factors: Factors, like: Tensor | None = None) -> Adapter:
        """Return the adapter that adds `up @ down` to each module's weight. Ranks may differ between modules.

        Its tensors are fp32 on the CPU, or of the device and dtype of `like`.
        """
        weights: dict[str, Tensor] = {}
        ranks: dict[str, int] = {}
        for module, (down, up) in sorted(factors.items()):
            for factor, value in (("lora_A", down), ("lora_B", up)):
                weights[f"{module}.{factor}.weight"] = value.float().cpu() if like is None else value.to(like)
            ranks[module] = down.shape[0]
        rank = max(ranks.values())
        # alpha = r: a scaling of one.
        config = {"r": rank, "lora_alpha": rank, "target_modules": list(ranks)}
        return Adapter(weights, config | {"rank_pattern": ranks, "alpha_pattern": ranks})

    def with_gate(self, *, temperature: float, bias: float) -> Adapter:
        """Return the same adapter with another temperature and bias of its gate; the edit need not be made again.

        On disk, the two numbers are in `adaptation.json`.
        """
        if self.gate is None:
            raise ValueError("the adapter has no gate")
        return replace(self, gate=replace(self.gate, temperature=temperature, bias=bias))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return all stored tensors by name: the weights, and the gate's keys as `<module>.gate.keys`."""
        keys = self.gate.keys if self.gate else {}
        return {**self.weights, **{f"{module}.gate.keys": tensor for module, tensor in keys.items()}}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class Adaptation:
    """A method's change of the backbone for one concept (or one of its knowledge items).

    Attributes:
        transformer: adapter of the diffusion transformer; None leaves it unchanged.
        text_encoder: adapter of the LLM text encoder; None leaves it unchanged.
        cost: total cost, shared stages included at their full original cost.
        details: values the method wants on record (final loss, rank, steps), JSON types only. `edited_facts`, a list of
            `{question, answer}`, are all facts that it was to teach; without it these are the concept's own.
    """

    transformer: Adapter | None = None
    text_encoder: Adapter | None = None
    cost: Cost = field(default_factory=Cost)
    details: Mapping[str, Any] = field(default_factory=dict)

    def joined(self, other: Adaptation) -> Adaptation:
        """Combine two stages that adapt different modules; costs are added."""
        if (self.transformer and other.transformer) or (self.text_encoder and other.text_encoder):
            raise ValueError("both adaptations have an adapter for the same module")
        return Adaptation(
            self.transformer or other.transformer,
            self.text_encoder or other.text_encoder,
            self.cost + other.cost,
            {**self.details, **other.details},
        )

    @property
    def nbytes(self) -> int:
        return sum(adapter.nbytes for adapter in (self.transformer, self.text_encoder) if adapter)
