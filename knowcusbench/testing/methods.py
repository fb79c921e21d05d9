"""Checks of the contract of methods.

A failed check is an AssertionError with a sentence that names the broken promise.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.method import Method
from knowcusbench.adapters.peft_files import load_adaptation, save_adaptation
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import UserError, WeightsError
from knowcusbench.testing.common import global_random_state, other_global_random_state, require

NOISE_SEED = 0
"""Seed of the noise of compared images."""


def check_method(method: Method, backbone: Backbone, concept: Concept, directory: Path) -> None:
    """Check that `method` keeps the promises of `Method`.

    Args:
        method: the method, with settings that make it fast; it is run about six times.
        backbone: a small one (the embedded miniature); it is left unchanged.
        concept: a concept with reference images and at least two knowledge items.
        directory: an empty directory for caches and adaptations.

    Raises AssertionError for the first broken promise, and ValueError for a concept that can't be used for these
    checks.
    """
    if len(concept.knowledge) < 2 or not concept.images:
        raise ValueError("check_method needs a concept with images and at least two knowledge items")
    check_subject(method, concept)
    first, *others = _jobs(method, concept)
    cache = AdapterCache(directory / "cache")
    adaptation = check_backbone_left_alone(method, backbone, first, cache)
    check_adapters(adaptation, backbone, _prompt(method, first))
    check_cost(adaptation)
    check_round_trip(adaptation, backbone, _prompt(method, first), directory / "adaptation")
    check_determinism(method, backbone, first, adaptation, cache, AdapterCache(directory / "fresh"))
    check_independence(method, backbone, first, others, adaptation, AdapterCache(directory / "others"))
    check_errors(method, backbone, concept, AdapterCache(directory / "errors"))


def _jobs(method: Method, concept: Concept) -> list[Concept]:
    """Return the concepts that `adapt` is called with, as in a run."""
    if method.per_knowledge:
        return [concept.with_knowledge(item) for item in concept.knowledge]
    return [concept]


def _prompt(method: Method, concept: Concept) -> str:
    return method.subject(concept, concept.knowledge[0])


def check_subject(method: Method, concept: Concept) -> None:
    """Check that the subject of every knowledge item is text that fits into a prompt."""
    for item in concept.knowledge:
        subject = method.subject(concept, item)
        require(
            isinstance(subject, str) and bool(subject.strip()),
            f"subject() must name the concept in words; for {item.phrase!r} it returned {subject!r}",
        )


def check_backbone_left_alone(method: Method, backbone: Backbone, concept: Concept, cache: AdapterCache) -> Adaptation:
    """Check that `adapt` leaves the backbone and the global random generators unchanged. Returns its adaptation."""
    before, image = _state(backbone), _draw(backbone, _prompt(method, concept))
    random_before = global_random_state()
    adaptation = method.adapt(concept, backbone, cache)
    require(
        global_random_state() == random_before,
        "adapt() moved a global random generator (random, numpy.random or torch); use one of your own",
    )
    require(isinstance(adaptation, Adaptation), f"adapt() must return an Adaptation, it returned {adaptation!r}")
    try:
        backbone.check_intact()
    except RuntimeError as error:
        raise AssertionError(f"adapt() must leave the backbone as it found it: {error}") from error
    require(
        _state(backbone) == before,
        "adapt() left modules in training mode, or parameters with requires_grad or a gradient",
    )
    require(
        _draw(backbone, _prompt(method, concept)) == image,
        "the backbone draws another image after adapt(); did a hook or an attribute stay on it?",
    )
    return adaptation


def check_adapters(adaptation: Adaptation, backbone: Backbone, prompt: str) -> None:
    """Check that adapters are fp32 CPU tensors that fit the backbone and can be removed without a trace."""
    for part, adapter in _adapters(adaptation).items():
        for name, tensor in adapter.tensors.items():
            require(
                tensor.dtype == torch.float32 and tensor.device.type == "cpu",
                f"adapters must be fp32 CPU tensors; {part} {name} is {tensor.dtype} on {tensor.device}",
            )
            require(bool(tensor.isfinite().all()), f"{part} {name} has values that are not finite")
    try:
        with backbone.adapted(adaptation):
            _draw(backbone, prompt)
    except WeightsError as error:
        raise AssertionError(f"the adaptation does not fit the backbone: {error}") from error
    except RuntimeError as error:
        raise AssertionError(f"the backbone can't be used with the adaptation: {error}") from error


def check_cost(adaptation: Adaptation) -> None:
    """Check that costs are finite and not negative."""
    for stage, seconds in adaptation.cost.seconds.items():
        require(
            math.isfinite(seconds) and seconds >= 0,
            f"cost of stage {stage!r} must be seconds, it is {seconds!r}",
        )
    peak = adaptation.cost.peak_memory_bytes
    require(isinstance(peak, int) and peak >= 0, f"peak_memory_bytes must be a number of bytes, it is {peak!r}")


def check_round_trip(adaptation: Adaptation, backbone: Backbone, prompt: str, directory: Path) -> None:
    """Check that a saved and loaded adaptation is the same and draws the same image."""
    try:
        save_adaptation(adaptation, directory)
    except TypeError as error:
        raise AssertionError(f"the adaptation can't be saved: {error}") from error
    loaded = load_adaptation(directory)
    require(_bytes(loaded) == _bytes(adaptation), "adapter weights change when they are saved and loaded")
    require(
        dict(loaded.details) == dict(adaptation.details),
        f"details change when they are saved and loaded (JSON types only): {adaptation.details!r}",
    )
    images = []
    for version in (adaptation, loaded):
        with backbone.adapted(version):
            images.append(_draw(backbone, prompt))
    require(images[0] == images[1], "the adaptation draws another image after it was saved and loaded")


def check_determinism(
    method: Method,
    backbone: Backbone,
    concept: Concept,
    adaptation: Adaptation,
    used: AdapterCache,
    fresh: AdapterCache,
) -> None:
    """Check that equal inputs give equal bytes, whatever the global generators' state and the cache's content."""
    with other_global_random_state():
        again = method.adapt(concept, backbone, fresh)
    require(
        _bytes(again) == _bytes(adaptation) and _configs(again) == _configs(adaptation),
        "adapt() is not deterministic: a second call gave another adaptation",
    )
    cached = method.adapt(concept, backbone, used)
    require(_bytes(cached) == _bytes(adaptation), "adapt() gives other weights when its cache has entries")


def check_independence(
    method: Method,
    backbone: Backbone,
    concept: Concept,
    others: Sequence[Concept],
    adaptation: Adaptation,
    cache: AdapterCache,
) -> None:
    """Check that adapting to other knowledge items first does not change the result for this one."""
    for other in others:
        method.adapt(other, backbone, cache)
    again = method.adapt(concept, backbone, cache)
    require(
        _bytes(again) == _bytes(adaptation),
        "per_knowledge: the adaptation of a knowledge item depends on the items that were adapted before it",
    )


def check_errors(method: Method, backbone: Backbone, concept: Concept, cache: AdapterCache) -> None:
    """Check that a concept without knowledge or images is adapted, or refused with a UserError that names it."""
    cases = {
        "without knowledge items": concept.with_knowledge(),
        "without reference images": replace(_jobs(method, concept)[0], images=(), images_digest=""),
    }
    for description, case in cases.items():
        try:
            method.adapt(case, backbone, cache)
        except UserError as error:
            require(
                concept.name in str(error),
                f"the error for a concept {description} must name it, {concept.name!r}; it says: {error}",
            )
        except Exception as error:
            raise AssertionError(
                f"a concept {description} must be adapted or refused with a MethodError, not with "
                f"{type(error).__name__}: {error}"
            ) from error


def _adapters(adaptation: Adaptation) -> dict[str, Adapter]:
    adapters = {"transformer": adaptation.transformer, "text_encoder": adaptation.text_encoder}
    return {part: adapter for part, adapter in adapters.items() if adapter}


def _bytes(adaptation: Adaptation) -> dict[str, bytes]:
    """Return all tensors of an adaptation by name, as bytes."""
    return {
        f"{part}.{name}": tensor.contiguous().numpy().tobytes()
        for part, adapter in _adapters(adaptation).items()
        for name, tensor in adapter.tensors.items()
    }


def _configs(adaptation: Adaptation) -> dict[str, dict[str, Any]]:
    return {part: dict(adapter.config) for part, adapter in _adapters(adaptation).items()}


def _draw(backbone: Backbone, prompt: str) -> bytes:
    (image,) = backbone.sample(backbone.encode(prompt), [NOISE_SEED])
    return image.tobytes()


def _state(backbone: Backbone) -> list[tuple[str, bool, bool]]:
    """Return the state that training changes besides weights: gradients and modes, by name."""
    models: dict[str, nn.Module] = {
        "transformer": backbone.transformer,
        "text_encoder": backbone.text_encoder,
    }
    modes = [
        (f"{part}.{name}", module.training, False)
        for part, model in models.items()
        for name, module in model.named_modules()
    ]
    gradients = [
        (f"{part}.{name}", parameter.requires_grad, parameter.grad is not None)
        for part, model in models.items()
        for name, parameter in model.named_parameters()
    ]
    return modes + gradients
