"""Methods that break one promise each; the conformance suite must find all of them."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.method import Method
from knowcusbench.adapters.types import Adaptation, Adapter, Cost
from knowcusbench.backbone.base import Backbone
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Concept, KnowledgeItem
from knowcusbench.testing import check_method


def adapter(backbone: Backbone, seed: int = 0) -> Adapter:
    """Return a random LoRA of one layer of the transformer, strong enough to change the image."""
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(2, 128, generator=generator), torch.randn(128, 2, generator=generator)
    return Adapter.from_factors({backbone.lora_targets[0]: (down, up)})


@dataclass(frozen=True, kw_only=True)
class Good(Method):
    """Keeps every promise."""

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        return Adaptation(
            transformer=adapter(backbone), cost=Cost({"visual": 0.0}, 1), details={"loss": 0.5, "ranks": [2]}
        )


class GoodPerKnowledge(Good):
    """Makes a separate adapter for every item, from the item alone."""

    per_knowledge: ClassVar[bool] = True

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        seed = sum(item.phrase.count("e") for item in concept.knowledge)
        return Adaptation(transformer=adapter(backbone, seed))


@pytest.mark.parametrize("method", [Good(), GoodPerKnowledge()])
def test_a_method_that_keeps_its_promises_passes(
    method: Method, backbone: DiffusersBackbone, dog: Concept, tmp_path: Path
) -> None:
    check_method(method, backbone, dog, tmp_path)


class NamelessSubject(Good):
    def subject(self, concept: Concept, item: KnowledgeItem) -> str:
        return " "


class Counting(Good):
    """Returns another result at every call."""

    calls: ClassVar[Iterator[int]] = itertools.count()

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        return Adaptation(transformer=adapter(backbone, next(self.calls)))


class AnotherScaling(Good):
    """Returns the same weights with another alpha at every call."""

    calls: ClassVar[Iterator[int]] = itertools.count(1)

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        made = adapter(backbone)
        return Adaptation(transformer=replace(made, config={**made.config, "lora_alpha": next(self.calls)}))


class SeededByTheWorld(Good):
    """Takes its seed from the global generator without moving it."""

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        return Adaptation(transformer=adapter(backbone, torch.initial_seed() % 2**31))


@dataclass(frozen=True, kw_only=True)
class MovesGenerator(Good):
    draw: Callable[[], Any]

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        self.draw()
        return Adaptation()


class ChangesWeights(Good):
    """Changes a weight of the backbone (the fixture below changes it back)."""

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        with torch.no_grad():
            next(backbone.transformer.parameters()).add_(1.0)
        return Adaptation()


class LeavesHook(Good):
    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        backbone.transformer.register_forward_hook(lambda module, inputs, outputs: (outputs[0] * 0.5,))
        return Adaptation()


class LeavesTrainingMode(Good):
    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        backbone.text_encoder.train()
        return Adaptation()


class LeavesTrainable(Good):
    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        next(backbone.transformer.parameters()).requires_grad_(True)
        return Adaptation()


@dataclass(frozen=True, kw_only=True)
class Returns(Good):
    """Returns the result of `make` for a good adapter."""

    make: Callable[[Adapter], Any]

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        made: Adaptation = self.make(adapter(backbone))
        return made


def with_weights(made: Adapter, change: Callable[[torch.Tensor], torch.Tensor]) -> Adaptation:
    weights = {name: change(tensor) for name, tensor in made.weights.items()}
    return Adaptation(transformer=replace(made, weights=weights))


def of_another_model(made: Adapter) -> Adaptation:
    return Adaptation(transformer=Adapter.from_factors({"nowhere": (torch.ones(1, 2), torch.ones(2, 1))}))


def with_rslora(made: Adapter) -> Adaptation:
    """Return an adapter with a field of PEFT's that is not stored: it divides by the root of the rank, not the rank."""
    return Adaptation(transformer=replace(made, config={**made.config, "use_rslora": True}))


@dataclass(frozen=True, kw_only=True)
class Remembers(Good):
    """Adds up the items it has seen."""

    per_knowledge: ClassVar[bool] = True
    seen: set[str] = field(default_factory=set)

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        self.seen.update(item.phrase for item in concept.knowledge)
        return Adaptation(transformer=adapter(backbone, len(self.seen)))


class ForgetsItsKey(Good):
    """Shares a cache entry between all knowledge items."""

    per_knowledge: ClassVar[bool] = True

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        seed = sum(item.phrase.count("e") for item in concept.knowledge)
        return cache.get({"seed": 1}, lambda: Adaptation(transformer=adapter(backbone, seed)))


class DependsOnItsCache(Good):
    """Gives another result when the cache directory was used before."""

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        used = cache.directory.exists()
        cache.directory.mkdir(exist_ok=True)
        return Adaptation(transformer=adapter(backbone, int(used)))


class NeedsKnowledge(Good):
    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        concept.knowledge[0]
        return super().adapt(concept, backbone, cache)


class NeedsImages(Good):
    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        assert concept.images
        return super().adapt(concept, backbone, cache)


BROKEN = {
    "no subject": (NamelessSubject(), "subject"),
    "not deterministic": (Counting(), "not deterministic"),
    "another configuration": (AnotherScaling(), "not deterministic"),
    "seeded by the global generator": (SeededByTheWorld(), "not deterministic"),
    "moves torch's generator": (MovesGenerator(draw=lambda: torch.rand(1)), "global random generator"),
    "moves numpy's generator": (MovesGenerator(draw=lambda: np.random.rand()), "global random generator"),
    "moves Python's generator": (MovesGenerator(draw=random.random), "global random generator"),
    "changes weights": (ChangesWeights(), "leave the backbone as it found it"),
    "leaves a hook": (LeavesHook(), "draws another image"),
    "leaves training mode": (LeavesTrainingMode(), "training mode"),
    "leaves parameters trainable": (LeavesTrainable(), "requires_grad"),
    "returns nothing": (Returns(make=lambda made: None), "must return an Adaptation"),
    "half precision": (Returns(make=lambda made: with_weights(made, torch.Tensor.half)), "fp32"),
    "not finite": (Returns(make=lambda made: with_weights(made, lambda t: t * torch.inf)), "not finite"),
    "does not fit": (Returns(make=of_another_model), "does not fit"),
    "details of Python types": (
        Returns(make=lambda made: Adaptation(details={"x": object()})),
        "can't be saved",
    ),
    "details that JSON changes": (Returns(make=lambda made: Adaptation(details={"x": (1, 2)})), "details"),
    "configuration that is not stored": (Returns(make=with_rslora), "does not fit.*use_rslora"),
    "negative seconds": (Returns(make=lambda made: Adaptation(cost=Cost({"visual": -1.0}))), "visual"),
    "endless seconds": (Returns(make=lambda made: Adaptation(cost=Cost({"visual": math.inf}))), "visual"),
    "negative memory": (Returns(make=lambda made: Adaptation(cost=Cost({}, -1))), "peak_memory_bytes"),
    "items depend on each other": (Remembers(), "depends on the items"),
    "items share a cache entry": (ForgetsItsKey(), "depends on the items"),
    "cache decides the result": (DependsOnItsCache(), "cache"),
    "traceback without knowledge": (NeedsKnowledge(), "without knowledge items.*IndexError"),
    "traceback without images": (NeedsImages(), "without reference images.*AssertionError"),
}


@pytest.fixture
def spare_backbone(backbone: DiffusersBackbone) -> Iterator[DiffusersBackbone]:
    """The shared backbone, restored after a method has changed it."""
    parameter = next(backbone.transformer.parameters())
    kept = parameter.detach().clone()
    hooks = dict(backbone.transformer._forward_hooks)
    yield backbone
    with torch.no_grad():
        parameter.copy_(kept)
    parameter.requires_grad_(False)
    backbone.text_encoder.eval()
    backbone.transformer._forward_hooks.clear()
    backbone.transformer._forward_hooks.update(hooks)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_found_and_named(
    name: str, spare_backbone: DiffusersBackbone, dog: Concept, tmp_path: Path
) -> None:
    method, sentence = BROKEN[name]
    with pytest.raises(AssertionError, match=sentence):
        check_method(method, spare_backbone, dog, tmp_path)


def test_a_concept_that_cant_show_the_promises_is_refused(
    backbone: DiffusersBackbone, dog: Concept, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="two knowledge items"):
        check_method(Good(), backbone, dog.with_knowledge(dog.knowledge[0]), tmp_path)
