"""The number of facts that MoKus edits at once: the concept's first items, more than its own, or those of all
concepts."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from knowcusbench.methods.mokus import MoKus

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.dreambooth import DreamBooth
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Concept, Fact, KnowledgeItem
from knowcusbench.editors.base import facts_of
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import ConfigError
from knowcusbench.testing import check_method

EDITOR = UltraEdit(eta=2e-3, layers=(3, 4))
DREAMBOOTH = DreamBooth(steps=1, learning_rate=1e-3, rank=2, alpha=2)


@pytest.fixture
def duck(dog: Concept) -> Concept:
    items = (KnowledgeItem("the float", "What floats?", "sks toy", "functionality"),)
    return replace(dog, name="duck_toy", class_noun="toy", knowledge=items, images_digest="duck")


def mokus(**changes: object) -> MoKus:
    return MoKus(**{"dreambooth": DREAMBOOTH, "editor": EDITOR, **changes})  # type: ignore[arg-type]


def edited(made: Adaptation) -> Adapter:
    assert made.text_encoder is not None
    return made.text_encoder


def same(one: Adapter, other: Adapter) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items()
    )


def by_editor(facts: Sequence[Fact], backbone: DiffusersBackbone) -> Adapter:
    return edited(EDITOR.edit(facts, backbone))


def test_items_are_the_first_ones_and_then_the_others(
    backbone: DiffusersBackbone, dog: Concept, duck: Concept, tmp_path: Path
) -> None:
    cache = AdapterCache(tmp_path)
    facts = [*facts_of(dog), *facts_of(duck)]
    for count in (1, 2, 3):
        method = mokus(items=count).for_benchmark((duck, dog))
        assert same(edited(method.adapt(dog, backbone, cache)), by_editor(facts[:count], backbone))
    assert same(edited(mokus().for_benchmark((duck, dog)).adapt(dog, backbone, cache)), by_editor(facts[:2], backbone))


def test_all_facts_of_an_edit_are_on_record(
    backbone: DiffusersBackbone, dog: Concept, duck: Concept, tmp_path: Path
) -> None:
    cache = AdapterCache(tmp_path)
    dogs, ducks = facts_of(dog), facts_of(duck)
    expected = {
        mokus(): dogs,
        mokus(items=1): dogs[:1],
        mokus(items=3): (*dogs, *ducks),
        mokus(scope="batch"): (*ducks, *dogs),
        mokus(scope="sequential"): (*ducks, *dogs),
    }
    for method, facts in expected.items():
        made = method.for_benchmark((duck, dog)).adapt(dog, backbone, cache)
        assert made.details["edited_facts"] == [asdict(fact) for fact in facts]


def test_a_batch_of_all_concepts_is_edited_once_for_all_of_them(
    backbone: DiffusersBackbone, dog: Concept, duck: Concept, tmp_path: Path
) -> None:
    cache = AdapterCache(tmp_path)
    method = mokus(scope="batch").for_benchmark((duck, dog))
    made = [method.adapt(concept, backbone, cache) for concept in (dog, duck)]
    assert same(edited(made[0]), by_editor([*facts_of(duck), *facts_of(dog)], backbone))
    assert same(edited(made[0]), edited(made[1]))
    assert made[0].cost.seconds["textual"] == made[1].cost.seconds["textual"]
    assert made[0].details["key"]["instance_prompt"] == "sks dog"
    # The same holds if the grid leaves out some of its items.
    fewer = method.adapt(dog.with_knowledge(dog.knowledge[0]), backbone, cache)
    assert same(edited(made[0]), edited(fewer))
    # Two trainings and one edit. Another editor does not reuse the edit.
    assert len(list(tmp_path.iterdir())) == 3
    other = mokus(scope="batch", editor=replace(EDITOR, eta=1e-3)).for_benchmark((duck, dog))
    assert not same(edited(other.adapt(dog, backbone, cache)), edited(made[0]))


def test_one_concept_after_another_is_not_all_at_once(
    backbone: DiffusersBackbone, dog: Concept, duck: Concept, tmp_path: Path
) -> None:
    cache = AdapterCache(tmp_path)
    batch, turns = (
        edited(mokus(scope=scope).for_benchmark((duck, dog)).adapt(dog, backbone, cache))
        for scope in ("batch", "sequential")
    )
    assert not same(batch, turns)


@pytest.mark.parametrize("changes", [{"items": 3}, {"scope": "batch"}, {"scope": "sequential"}], ids=str)
def test_the_contract_is_kept(
    changes: dict[str, object], backbone: DiffusersBackbone, dog: Concept, duck: Concept, tmp_path: Path
) -> None:
    check_method(mokus(**changes).for_benchmark((duck, dog)), backbone, dog, tmp_path)


@pytest.mark.parametrize("changes", [{"items": 0}, {"items": 3, "scope": "batch"}], ids=str)
def test_a_senseless_combination_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"items of at least 1, and only with scope=concept, found items=\d"):
        mokus(**changes)
