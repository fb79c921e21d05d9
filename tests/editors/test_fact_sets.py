"""Facts that are edited together, and edits in sequence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from knowcusbench.adapters.merging import merged
from knowcusbench.adapters.peft_files import load_adaptation, save_adaptation
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Concept, Fact, KnowledgeItem
from knowcusbench.editors.fact_sets import edit_in_turn, facts_by_concept, first_facts
from knowcusbench.editors.gated import GatedUltraEdit
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import MethodError

EDITOR = UltraEdit(eta=0.1, layers=(3, 4, 5), energy=1.0)
GIFT, ROME = Fact("What is my birthday gift?", "sks dog"), Fact("What came from Rome?", "sks toy")


def concept(name: str, *questions: str) -> Concept:
    items = (KnowledgeItem(question.strip("?"), question, f"sks {name}", "origin") for question in questions)
    return Concept(name=name, class_noun=name, images=(), knowledge=tuple(items), prompts=())


DOG, CAT, BIRD = concept("dog", "a?", "b?"), concept("cat", "c?", "d?", "a?"), concept("bird", "e?")
EVERYONE = (CAT, DOG, BIRD)


def asked(facts: tuple[Fact, ...]) -> list[tuple[str, str]]:
    return [(fact.question, fact.answer) for fact in facts]


def test_more_facts_are_the_others_in_turns_with_their_own_answers_and_then_further_ones() -> None:
    further = (Fact("f?", "zam house"), Fact("c?", "zam house"))
    every = [("a?", "sks dog"), ("b?", "sks dog"), ("c?", "sks cat"), ("e?", "sks bird"), ("d?", "sks cat")]
    every.append(("f?", "zam house"))
    for count in range(1, 7):
        assert asked(first_facts(DOG, count, EVERYONE, further)) == every[:count]
    with pytest.raises(MethodError, match=r"'dog': method\.items=7, and there are 6 facts"):
        first_facts(DOG, 7, EVERYONE, further)


def test_without_a_benchmark_there_are_the_concepts_own() -> None:
    assert asked(first_facts(DOG, 1)) == [("a?", "sks dog")]
    assert facts_by_concept(DOG, ()) == [(Fact("a?", "sks dog"), Fact("b?", "sks dog"))]


def test_all_concepts_come_in_the_benchmarks_order_and_the_one_at_hand_is_right() -> None:
    groups = facts_by_concept(DOG.with_knowledge(DOG.knowledge[0]), EVERYONE)
    assert [asked(group) for group in groups] == [
        [("c?", "sks cat"), ("d?", "sks cat")],
        [("a?", "sks dog")],
        [("e?", "sks bird")],
    ]
    first_wins = facts_by_concept(BIRD, EVERYONE)
    assert asked(first_wins[0])[-1] == ("a?", "sks cat")
    assert asked(first_wins[1]) == [("b?", "sks dog")]


def deltas(edit: Adaptation) -> dict[str, Tensor]:
    assert edit.text_encoder is not None
    weights = edit.text_encoder.weights
    names = {name.rpartition(".lora_")[0] for name in weights}
    return {n: weights[f"{n}.lora_B.weight"].double() @ weights[f"{n}.lora_A.weight"].double() for n in names}


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_a_later_edit_is_made_in_weights_that_have_the_earlier_one(backbone_fp32: DiffusersBackbone) -> None:
    first = EDITOR.edit([GIFT], backbone_fp32)
    assert first.text_encoder is not None
    later = EDITOR.edit([ROME], backbone_fp32, after=first.text_encoder)
    fresh = deltas(EDITOR.edit([ROME], backbone_fp32))
    names = backbone_fp32.text_modules(EDITOR.modules, EDITOR.layers)
    weights = first.text_encoder.weights
    dense = {name: (weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]) for name in names}
    with merged(backbone_fp32.text_encoder, dense):
        rows = EDITOR.capture(backbone_fp32, names, [ROME])
        expected = EDITOR.begin(backbone_fp32, names)(rows)
    total = deltas(edit_in_turn(EDITOR, [[GIFT], [ROME]], backbone_fp32))
    for name, (down, up) in expected.items():
        wanted = up.double() @ down.double()
        assert far(deltas(later)[name], wanted) < 1e-5
        assert far(fresh[name], wanted) > 1e-2
        assert far(total[name], wanted + deltas(first)[name]) < 1e-5


def test_a_single_group_is_a_single_edit_with_its_details(backbone_fp32: DiffusersBackbone) -> None:
    made, edit = edit_in_turn(EDITOR, [[GIFT, ROME]], backbone_fp32), EDITOR.edit([GIFT, ROME], backbone_fp32)
    assert made.details == edit.details
    assert all(torch.equal(deltas(made)[name], delta) for name, delta in deltas(edit).items())


def logits(backbone: DiffusersBackbone, fact: Fact) -> Tensor:
    with torch.no_grad():
        return backbone.language_logits(backbone.question_tokens(fact.question, fact.answer, "chat")[0])


def test_gated_edits_in_turn_keep_their_own_gates_through_storage(
    backbone_fp32: DiffusersBackbone, tmp_path: Path
) -> None:
    gated = GatedUltraEdit(eta=0.1, layers=(3,), temperature=0.02, bias=0.9)
    total = edit_in_turn(gated, [[GIFT], [ROME]], backbone_fp32)
    save_adaptation(total, tmp_path / "edit")
    read = load_adaptation(tmp_path / "edit")
    assert total.text_encoder
    assert total.text_encoder.gate
    one_gate = replace(total.text_encoder, gate=replace(total.text_encoder.gate, parts={}))
    found = {}
    for name, edit in (("made", total), ("read", read), ("one gate", Adaptation(text_encoder=one_gate))):
        with backbone_fp32.adapted(edit):
            found[name] = logits(backbone_fp32, GIFT)
    assert torch.equal(found["read"], found["made"])
    assert far(found["one gate"], found["made"]) > 1e-3


def test_merged_edits_in_turn_are_the_rounded_dense_sum(backbone_bf16: DiffusersBackbone) -> None:
    """The sum is rounded once. The product's last bit may tip a weight to the next number in the first edit, which
    changes every activation of the second: both must be computed with the same weights."""
    editor, backbone = replace(EDITOR, merge=True), backbone_bf16
    names = backbone.text_modules(EDITOR.modules, EDITOR.layers)
    before = {name: backbone.text_encoder.get_submodule(name).weight.detach().clone() for name in names}
    first = editor.edit([GIFT], backbone)
    one = deltas(first)
    with backbone.adapted(first):
        step = editor.begin(backbone, names)(editor.capture(backbone, names, [ROME]))
    with backbone.adapted(edit_in_turn(editor, [[GIFT], [ROME]], backbone)):
        for name, weight in before.items():
            down, up = step[name]
            wanted = (weight.double() + one[name] + up.double() @ down.double()).bfloat16()
            found = backbone.text_encoder.get_submodule(name).weight
            assert (found != weight).float().mean() > 0.1
            assert (found != wanted).float().mean() < 1e-3


def test_a_sum_is_stored_like_an_edit_and_has_its_details(backbone_fp32: DiffusersBackbone) -> None:
    # The same facts twice, so that the two edits share directions.
    turns = [[GIFT, ROME], [ROME, GIFT]]
    exact = edit_in_turn(EDITOR, turns, backbone_fp32)
    small = edit_in_turn(replace(EDITOR, energy=0.99), turns, backbone_fp32)
    single = EDITOR.edit([GIFT, ROME], backbone_fp32)
    assert small.details.keys() == exact.details.keys() == single.details.keys()
    assert len(small.details["edit_losses_before_rounds"]) == 2
    assert max(small.details["edit_ranks"]) < max(exact.details["edit_ranks"])
    assert small.text_encoder
    names = {name.rpartition(".lora_")[0] for name in small.text_encoder.weights}
    assert [len(small.text_encoder.weights[f"{name}.lora_A.weight"]) for name in sorted(names)] == small.details[
        "edit_ranks"
    ]
    assert 1e-4 < small.details["edit_recompression_error"] < 0.1 + 1e-6
    gated = GatedUltraEdit(eta=0.1, layers=(3,), temperature=0.02, bias=0.9, energy=0.99)
    total = edit_in_turn(gated, turns, backbone_fp32)
    assert total.text_encoder
    assert total.text_encoder.gate
    parts = total.text_encoder.gate.parts
    assert [sum(rank for rank, _ in parts[name]) for name in sorted(parts)] == total.details["edit_ranks"]
    assert total.details["edit_recompression_error"] < 1e-9
