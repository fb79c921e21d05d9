"""The common behaviour of all editors: capture, rounds, the stored form, merging, and refusals."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from knowcusbench.adapters.lora import attached
from knowcusbench.adapters.peft_files import load_adaptation, save_adaptation
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone.base import Backbone
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.config.build import build
from knowcusbench.editors.gradient_descent import GradientDescent
from knowcusbench.editors.rows import capture_fact, joined_rows
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import ConfigError, MethodError, WeightsError

FACTS = (Fact("What is my birthday gift?", "sks dog"), Fact("What came from Rome?", "sks dog"))
ALIKE = tuple(Fact(f"What is thing number {n}?", "sks dog") for n in range(50))
"""Fifty facts whose keys are nearly parallel."""
LAYERS, MODULES = (3, 4, 5), ("gate_proj", "up_proj")


def editor(**changes: Any) -> UltraEdit:
    return UltraEdit(**{"eta": 2e-3, "layers": LAYERS, **changes})


def factors(edited: Adaptation, name: str) -> tuple[Tensor, Tensor]:
    assert edited.text_encoder is not None
    weights = edited.text_encoder.weights
    return weights[f"{name}.lora_A.weight"].double(), weights[f"{name}.lora_B.weight"].double()


def delta(edited: Adaptation, name: str) -> Tensor:
    down, up = factors(edited, name)
    return up @ down


def dense_edit(backbone: Backbone, made: UltraEdit, facts: Sequence[Fact]) -> dict[str, np.ndarray]:
    """Return `(H^T H + I)^-1 H^T V`, `V = -eta |h|^2 g` of normalised h and g, by a d x d solve in fp64.

    All layers have one shape, so they share their statistics.
    """
    rows = joined_rows(made.capture(backbone, backbone.text_modules(MODULES, LAYERS), facts))
    both = {name: torch.cat(pair, dim=1).double().numpy() for name, pair in rows.items()}
    together = np.concatenate(list(both.values()))
    mean, std = together.mean(0), together.std(0, ddof=1)
    changes = {}
    for name, (keys, _) in rows.items():
        h, width = keys.double().numpy(), keys.shape[1]
        normalised = (both[name] - mean) / std
        v = -made.eta * (normalised[:, :width] ** 2).sum(1, keepdims=True) * normalised[:, width:]
        changes[name] = np.linalg.solve(h.T @ h + np.eye(width), h.T @ v).T
    return changes


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_a_step_is_the_dense_solve(precision: Any, tolerance: float, backbone_fp32: DiffusersBackbone) -> None:
    names = backbone_fp32.text_modules(MODULES, LAYERS)
    made = editor(precision=precision)
    step = made.begin(backbone_fp32, names)(made.capture(backbone_fp32, names, FACTS))
    for name, expected in dense_edit(backbone_fp32, made, FACTS).items():
        down, up = step[name]
        assert down.dtype == getattr(torch, precision)
        error = np.linalg.norm((up.double() @ down.double()).numpy() - expected)
        assert error < tolerance * np.linalg.norm(expected)


@pytest.mark.model
@pytest.mark.parametrize("facts", [ALIKE[:1], ALIKE], ids=["one", "fifty alike"])
@pytest.mark.parametrize(("fixture", "tolerance"), [("backbone_fp32", 1e-5), ("backbone_bf16", 2**-7)])
def test_the_stored_form_acts_like_the_dense_change(
    facts: tuple[Fact, ...], fixture: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    """Compare with the same weights as a dense fp32 matrix. In bf16 the outputs are rounded to eight bits."""
    backbone: DiffusersBackbone = request.getfixturevalue(fixture)
    made = editor(energy=1.0)
    edited = made.edit(facts, backbone)
    input_ids, _ = backbone.question_tokens(facts[0].question, facts[0].answer, "chat")

    def add(change: Tensor) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return (output.float() + arguments[0].float() @ change.T).to(output.dtype)

        return hook

    with torch.no_grad():
        before = backbone.language_logits(input_ids).float()
        with ExitStack() as stack:
            for name, change in dense_edit(backbone, made, facts).items():
                layer = backbone.text_encoder.get_submodule(name)
                stack.callback(layer.register_forward_hook(add(torch.from_numpy(change).float())).remove)
            expected = backbone.language_logits(input_ids).float()
        with backbone.adapted(edited):
            found = backbone.language_logits(input_ids).float()
    assert (expected - before).norm() > 0.05 * before.norm()
    assert (found - expected).norm() < tolerance * expected.norm()


@torch.no_grad()
@pytest.mark.parametrize("facts", [ALIKE[:1], ALIKE], ids=["one", "fifty alike"])
def test_a_bf16_adapter_changes_the_outputs_as_the_exact_edit_does(
    facts: tuple[Fact, ...], backbone_fp32: DiffusersBackbone
) -> None:
    """Raw factors of nearly parallel rows cancel and lose everything."""
    made, names = editor(), backbone_fp32.text_modules(MODULES, LAYERS)
    edited = made.edit(facts, backbone_fp32)
    raw = Adapter.from_factors(made.begin(backbone_fp32, names)(made.capture(backbone_fp32, names, facts)))
    input_ids, _ = backbone_fp32.question_tokens(facts[0].question, facts[0].answer, "chat")

    def logits(adapter: Adapter | None, dtype: torch.dtype) -> Tensor:
        with attached(backbone_fp32.text_encoder, adapter, dtype) if adapter else nullcontext():
            return backbone_fp32.language_logits(input_ids).double()

    change = logits(raw, torch.float64) - logits(None, torch.float64)

    def error(adapter: Adapter | None) -> float:
        found = logits(adapter, torch.bfloat16) - logits(None, torch.float64)
        return float((found - change).norm() / change.norm())

    assert edited.details["edit_bf16_error"] < 2**-8
    assert error(edited.text_encoder) < 2**-8
    assert error(raw) > 2**-5


@pytest.mark.parametrize("facts", [FACTS, ALIKE])
@pytest.mark.parametrize("rounds", [1, 3])
def test_the_stored_form_keeps_the_energy_and_reports_its_error(
    facts: tuple[Fact, ...], rounds: int, backbone_fp32: DiffusersBackbone
) -> None:
    energy = 0.99
    edited = editor(energy=energy, rounds=rounds).edit(facts, backbone_fp32)
    error = edited.details["edit_recompression_error"]
    assert error <= (1 - energy) ** 0.5 + 1e-6
    if rounds == 1:
        whole = editor(energy=1.0).edit(facts, backbone_fp32)
        assert whole.details["edit_recompression_error"] < 1e-6
        errors = []
        for name in backbone_fp32.text_modules(MODULES, LAYERS):
            exact = delta(whole, name)
            errors.append(float((delta(edited, name) - exact).norm() / exact.norm()))
        assert error == pytest.approx(max(errors), rel=1e-3)
    ranks = edited.details["edit_ranks"]
    assert max(ranks) < 60
    for name in backbone_fp32.text_modules(MODULES, LAYERS):
        down, up = factors(edited, name)
        # The factors are balanced, with orthogonal directions.
        assert torch.allclose(down.norm(dim=1), up.norm(dim=0), rtol=1e-4)
        gram = down @ down.T
        assert (gram - gram.diag().diag()).norm() < 1e-5 * gram.norm()


def test_only_the_first_token_of_an_answer_can_count(backbone_fp32: DiffusersBackbone) -> None:
    names = backbone_fp32.text_modules(MODULES, LAYERS)
    first = editor(answer_tokens="first").capture(backbone_fp32, names, FACTS)
    every = editor().capture(backbone_fp32, names, FACTS)
    for fact, part, whole in zip(FACTS, first, every, strict=True):
        assert len(part) == 1
        assert len(whole) > 1
        input_ids, labels = backbone_fp32.question_tokens(fact.question, fact.answer, "chat")
        place = int((labels[0] >= 0).nonzero()[0])
        logits = backbone_fp32.language_logits(input_ids)[0, place]
        assert part.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels[0, place])), rel=1e-5)
        for name in names:
            assert torch.equal(part.rows[name][0][0], whole.rows[name][0][0])
    after = editor(answer_tokens="first", rounds=2).edit(FACTS, backbone_fp32).details["edit_losses_before_rounds"]
    assert after[1] < after[0]


def test_persistent_statistics_carry_over_and_those_of_a_concept_do_not(backbone_fp32: DiffusersBackbone) -> None:
    (name,) = backbone_fp32.text_modules(("up_proj",), (4,))
    settings = {"layers": (4,), "modules": ("up_proj",), "energy": 1.0}
    concept, persistent = editor(**settings), editor(**settings, statistics="persistent")
    for made in (concept, persistent):
        made.edit(ALIKE[:5], backbone_fp32)
    alone = delta(editor(**settings).edit(FACTS, backbone_fp32), name)
    assert torch.equal(delta(concept.edit(FACTS, backbone_fp32), name), alone)
    # The earlier facts count in the statistics as a warm-up would.
    warmed = delta(editor(**settings, warmup=ALIKE[:5]).edit(FACTS, backbone_fp32), name)
    found = delta(persistent.edit(FACTS, backbone_fp32), name)
    assert (found - warmed).norm() < 1e-5 * warmed.norm()
    assert (found - alone).norm() > 0.01 * alone.norm()


def test_capturing_costs_one_forward_and_one_backward_above_the_lowest_layer(backbone_fp32: DiffusersBackbone) -> None:
    encoder = backbone_fp32.text_encoder
    layers = [encoder.get_submodule(f"model.language_model.layers.{n}") for n in range(backbone_fp32.layer_count)]
    forwards: Counter[int] = Counter()
    backwards: Counter[int] = Counter()

    def watch(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            forwards[number] += 1
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.requires_grad:
                hidden.register_hook(lambda gradient: backwards.update([number]))

        return hook

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(watch(number)).remove)
        made = editor(layers=(3, 4))
        made.capture(backbone_fp32, backbone_fp32.text_modules(MODULES, (3, 4)), FACTS)
    assert forwards == dict.fromkeys(range(len(layers)), len(FACTS))
    assert backwards == dict.fromkeys(range(3, len(layers)), len(FACTS))


def test_a_merged_edit_is_the_rounded_dense_sum_and_goes_without_a_trace(backbone_bf16: DiffusersBackbone) -> None:
    edited = editor(merge=True).edit(FACTS, backbone_bf16)
    names = backbone_bf16.text_modules(MODULES, LAYERS)
    before = {name: tensor.clone() for name, tensor in backbone_bf16.text_encoder.state_dict().items()}
    prompt = backbone_bf16.encode("sks dog").embeds
    with backbone_bf16.adapted(edited):
        for name in names:
            wanted = (before[f"{name}.weight"].float() + delta(edited, name).float()).bfloat16()
            found = backbone_bf16.text_encoder.get_submodule(name).weight
            assert (found != wanted).float().mean() < 1e-3
        assert not torch.equal(backbone_bf16.encode("sks dog").embeds, prompt)
    after = backbone_bf16.text_encoder.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(backbone_bf16.encode("sks dog").embeds, prompt)


def test_the_retained_gain_is_reported_whether_merged_or_not(backbone_bf16: DiffusersBackbone) -> None:
    kept = total = 0.0
    beside, merged = (editor(merge=merge, eta=1e-6).edit(FACTS, backbone_bf16) for merge in (False, True))
    for name in backbone_bf16.text_modules(MODULES, LAYERS):
        weight, change = backbone_bf16.text_encoder.get_submodule(name).weight, delta(beside, name).float()
        rounded = (weight.float() + change).bfloat16()
        kept += float(((rounded.double() - weight.double()) * change).sum())
        total += float(change.double().square().sum())
    assert 0 < kept / total < 0.9
    assert beside.details["edit_retained_gain"] == pytest.approx(kept / total, rel=1e-3)
    assert merged.details["edit_retained_gain"] == beside.details["edit_retained_gain"]


def test_merging_warns_when_less_than_half_survives(
    backbone_bf16: DiffusersBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = editor(merge=True, eta=1e-7).edit(FACTS, backbone_bf16)
    assert lost.details["edit_retained_gain"] < 0.5
    warning = capsys.readouterr().err
    assert f"merging keeps {lost.details['edit_retained_gain']:.0%} of the edit" in warning
    assert "editor.merge=false" in warning
    assert editor(merge=True, eta=1e-1).edit(FACTS, backbone_bf16).details["edit_retained_gain"] > 0.5
    editor(eta=1e-7).edit(FACTS, backbone_bf16)
    assert "merging" not in capsys.readouterr().err


def test_rounds_of_a_merged_edit_go_on_from_the_rounded_weights(backbone: DiffusersBackbone) -> None:
    once, twice = (editor(merge=True, eta=1e-5, rounds=rounds).edit(FACTS, backbone) for rounds in (1, 2))
    with backbone.adapted(once), torch.no_grad():
        losses = [part.loss for part in editor().capture(backbone, backbone.text_modules(MODULES, LAYERS), FACTS)]
    assert twice.details["edit_losses_before_rounds"][1] == sum(losses) / 2


def test_merged_is_stored(backbone: DiffusersBackbone, tmp_path: Path) -> None:
    edited = editor(merge=True).edit(FACTS, backbone)
    save_adaptation(edited, tmp_path / "a")
    loaded = load_adaptation(tmp_path / "a")
    assert loaded.text_encoder is not None
    assert loaded.text_encoder.merged


EDITORS = [editor(), editor(merge=True), GradientDescent(layers=LAYERS, learning_rate=0.1, rounds=2)]


@pytest.mark.parametrize("made", EDITORS)
@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ((), "no facts"),
        ((*FACTS, Fact("Who is it?", " ")), r"'Who is it\?'.*no token"),
        ((*FACTS, Fact("What " + "is " * 5000 + "it?", "sks dog")), r"What is is.*tokens.*takes"),
        ((*FACTS, Fact(FACTS[0].question, "sks cat")), r"conflict.*my birthday gift.*'sks dog' and 'sks cat'"),
    ],
)
def test_a_fact_that_can_not_be_edited_is_named(
    made: Any, facts: tuple[Fact, ...], named: str, backbone_fp32: DiffusersBackbone
) -> None:
    modules = [id(module) for module in backbone_fp32.text_encoder.modules()]
    with pytest.raises(MethodError, match=named):
        made.edit(facts, backbone_fp32)
    backbone_fp32.check_intact()
    assert [id(module) for module in backbone_fp32.text_encoder.modules()] == modules


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_stop_the_edit_before_statistics_change(
    value: float, backbone_fp32: DiffusersBackbone
) -> None:
    made, reference = (editor(statistics="persistent") for _ in range(2))
    weight = backbone_fp32.text_encoder.get_submodule("model.language_model.layers.4.mlp.up_proj").weight
    kept = weight[0, 0].item()
    weight[0, 0] = value
    try:
        with pytest.raises(MethodError, match=r"What is my birthday gift.*NaN or infinity"):
            made.edit(FACTS, backbone_fp32)
    finally:
        weight[0, 0] = kept
    (name,) = backbone_fp32.text_modules(("up_proj",), (4,))
    found, wanted = (delta(one.edit(FACTS, backbone_fp32), name) for one in (made, reference))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("faithful", [False, True])
def test_an_edit_refused_in_its_second_round_leaves_the_statistics_as_they_were(
    faithful: bool, backbone_fp32: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, reference = (editor(statistics="persistent", rounds=2, faithful=faithful) for _ in range(2))
    for one in (made, reference):
        one.edit(ALIKE[:2], backbone_fp32)
    captured: list[None] = []

    def capture(*arguments: Any, **options: Any) -> Any:
        captured.append(None)
        if len(captured) > len(FACTS):
            raise MethodError("the second round")
        return capture_fact(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("knowcusbench.editors.rows.capture_fact", capture)
        with pytest.raises(MethodError, match="the second round"):
            made.edit(FACTS, backbone_fp32)
    (name,) = backbone_fp32.text_modules(("up_proj",), (4,))
    found, wanted = (delta(one.edit(FACTS, backbone_fp32), name) for one in (made, reference))
    assert torch.equal(found, wanted)


def test_an_edit_too_strong_for_numbers_is_refused(backbone_fp32: DiffusersBackbone) -> None:
    with pytest.raises(MethodError, match="not finite"):
        editor(eta=1e308).edit(FACTS, backbone_fp32)


def test_a_layer_that_is_not_there_is_named(backbone_fp32: DiffusersBackbone) -> None:
    with pytest.raises(ConfigError, match="layer 26"):
        GradientDescent(layers=(3, 26), learning_rate=0.1).edit(FACTS, backbone_fp32)


@pytest.mark.parametrize("merge", [False, True])
def test_an_edit_of_another_model_is_refused_and_nothing_is_applied(merge: bool, backbone: DiffusersBackbone) -> None:
    edited = editor(merge=merge).edit(FACTS, backbone)
    other = copy.deepcopy(edited)
    assert other.text_encoder is not None
    last = max(other.text_encoder.weights)
    other.text_encoder.weights[last] = torch.zeros(7, 7)
    with pytest.raises(WeightsError, match=last), backbone.adapted(other):
        pass
    backbone.check_intact()


@pytest.mark.parametrize("wrong", [{"answer_tokens": "last"}, {"precision": "float16"}, {"statistics": "global"}])
def test_a_word_that_is_not_known_is_refused_by_its_key(wrong: dict[str, str]) -> None:
    node = {"_target_": "knowcusbench.editors.UltraEdit", "eta": 1e-3, "layers": [3], **wrong}
    with pytest.raises(ConfigError, match=rf"editor\.{next(iter(wrong))}"):
        build(node, "editor")
