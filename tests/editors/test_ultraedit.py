import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import Backbone
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.rows import capture_rows
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import ConfigError, MethodError

FACTS = (Fact("What is my birthday gift?", "sks dog"), Fact("What came from Rome?", "sks dog"))
LAYERS = (3, 4, 5)
MODULES = ("gate_proj", "up_proj")


def editor(**changes: Any) -> UltraEdit:
    settings = {"eta": 2e-3, "layers": LAYERS}
    return UltraEdit(**{**settings, **changes})


def answer_loss(backbone: Backbone, fact: Fact) -> Tensor:
    input_ids, labels = backbone.question_tokens(fact.question, fact.answer, "chat")
    return nn.functional.cross_entropy(backbone.language_logits(input_ids)[0].float(), labels[0])


def mean_loss(backbone: Backbone) -> float:
    with torch.no_grad():
        return float(sum(answer_loss(backbone, fact) for fact in FACTS)) / len(FACTS)


def rows_by_autograd(backbone: Backbone, names: tuple[str, ...], fact: Fact) -> dict[str, tuple[Tensor, Tensor]]:
    """Return inputs and output gradients at the answer positions, from the ordinary graph of the whole model."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            inputs[name], outputs[name] = arguments[0], output

        return hook

    encoder = backbone.text_encoder
    handles = [encoder.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    embeddings = encoder.get_input_embeddings().weight
    embeddings.requires_grad_(True)
    try:
        answer_loss(backbone, fact).backward()
    finally:
        embeddings.requires_grad_(False)
        embeddings.grad = None
        for handle in handles:
            handle.remove()
    _, labels = backbone.question_tokens(fact.question, fact.answer, "chat")
    at = labels[0] != -100
    return {name: (inputs[name][0, at].detach(), outputs[name].grad[0, at]) for name in names}


def captured_rows(backbone: Backbone, names: tuple[str, ...], fact: Fact) -> dict[str, tuple[Tensor, Tensor]]:
    rows, _ = capture_rows(backbone, names, *backbone.question_tokens(fact.question, fact.answer, "chat"))
    return rows


def test_captured_rows_are_those_of_the_whole_models_graph(backbone_fp32: DiffusersBackbone) -> None:
    names = backbone_fp32.text_modules(MODULES, LAYERS)
    captured = captured_rows(backbone_fp32, names, FACTS[0])
    expected = rows_by_autograd(backbone_fp32, names, FACTS[0])
    for name in names:
        for found, wanted in zip(captured[name], expected[name], strict=True):
            assert found.shape == wanted.shape
            assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_captured_rows_make_up_the_weight_gradient(backbone_fp32: DiffusersBackbone) -> None:
    """In the last layer only the answer positions reach the loss, so the gradient sums `g h^T` over them."""
    (name,) = backbone_fp32.text_modules(["gate_proj"], [backbone_fp32.layer_count - 1])
    weight = backbone_fp32.text_encoder.get_submodule(name).weight
    weight.requires_grad_(True)
    try:
        answer_loss(backbone_fp32, FACTS[0]).backward()
        gradient, weight.grad = weight.grad, None
    finally:
        weight.requires_grad_(False)

    keys, gradients = captured_rows(backbone_fp32, (name,), FACTS[0])[name]

    assert (gradients.T @ keys - gradient).norm() < 1e-5 * gradient.norm()


def test_capturing_leaves_no_gradient_and_no_hook(backbone_fp32: DiffusersBackbone) -> None:
    names = backbone_fp32.text_modules(MODULES, LAYERS)
    captured_rows(backbone_fp32, names, FACTS[0])
    encoder = backbone_fp32.text_encoder
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert not any(encoder.get_submodule(name)._forward_hooks for name in names)


def all_rows(backbone: Backbone, facts: tuple[Fact, ...]) -> dict[str, list[np.ndarray]]:
    names = backbone.text_modules(MODULES, LAYERS)
    by_fact = [rows_by_autograd(backbone, names, fact) for fact in facts]
    return {name: [torch.cat([part[name][k] for part in by_fact]).double().numpy() for k in (0, 1)] for name in names}


def dense_edit(backbone: Backbone, eta: float, warmup: tuple[Fact, ...]) -> dict[str, np.ndarray]:
    """Return the paper's formula as written: statistics by shape, then one dense d x d solve per matrix, in fp64."""
    rows = all_rows(backbone, FACTS)
    # Both modules of all layers have one shape here, so they share their statistics.
    pairs = [*rows.values(), *(all_rows(backbone, warmup).values() if warmup else ())]
    joint = np.concatenate([np.concatenate(pair, axis=1) for pair in pairs])
    mean, std = joint.mean(0), joint.std(0, ddof=1)
    edits = {}
    for name, (keys, gradients) in rows.items():
        width = keys.shape[1]
        normalised = (np.concatenate([keys, gradients], axis=1) - mean) / std
        values = -eta * (normalised[:, :width] ** 2).sum(1, keepdims=True) * normalised[:, width:]
        edits[name] = np.linalg.solve(keys.T @ keys + np.eye(width), keys.T @ values).T
    return edits


def delta(edited: Adaptation, name: str) -> Tensor:
    assert edited.text_encoder is not None
    weights = edited.text_encoder.weights
    return weights[f"{name}.lora_B.weight"].double() @ weights[f"{name}.lora_A.weight"].double()


@pytest.mark.parametrize("warmup", [(), (Fact("What is the sky?", "blue"), Fact("Who barks?", "a dog"))])
def test_the_edit_is_the_papers_dense_solve(warmup: tuple[Fact, ...], backbone_fp32: DiffusersBackbone) -> None:
    edited = editor(energy=1.0, warmup=warmup).edit(FACTS, backbone_fp32)
    for name, expected in dense_edit(backbone_fp32, 2e-3, warmup).items():
        error = np.linalg.norm(delta(edited, name).numpy() - expected) / np.linalg.norm(expected)
        assert error < 1e-5


def test_a_single_row_needs_a_warmup(backbone_fp32: DiffusersBackbone) -> None:
    """Centred by its own mean, a single row is zero, and so is its edit."""
    (name,) = backbone_fp32.text_modules(["up_proj"], [4])
    fact = Fact("What is my birthday gift?", "a")
    assert len(captured_rows(backbone_fp32, (name,), fact)[name][0]) == 1
    settings = {"layers": (4,), "modules": ("up_proj",)}
    assert delta(editor(**settings).edit([fact], backbone_fp32), name).eq(0).all()
    assert delta(editor(**settings, warmup=FACTS).edit([fact], backbone_fp32), name).norm() > 0


def test_the_stored_edit_keeps_the_stated_energy(backbone_fp32: DiffusersBackbone) -> None:
    full = editor(energy=1.0).edit(FACTS, backbone_fp32)
    small = editor(energy=0.99).edit(FACTS, backbone_fp32)
    for name in backbone_fp32.text_modules(MODULES, LAYERS):
        lost = (delta(small, name) - delta(full, name)).norm() / delta(full, name).norm()
        assert lost**2 <= 0.01 + 1e-6
    assert small.nbytes < full.nbytes


@pytest.mark.parametrize("fixture", ["backbone_fp32", "backbone_bf16"])
def test_the_adapter_acts_like_the_dense_change_of_the_weights(
    fixture: str, backbone_fp32: DiffusersBackbone, request: pytest.FixtureRequest
) -> None:
    backbone: DiffusersBackbone = request.getfixturevalue(fixture)
    edited = editor(eta=1e-2).edit(FACTS, backbone)
    input_ids, _ = backbone.question_tokens(FACTS[0].question, FACTS[0].answer, "chat")
    # The reference: the same edit added to the weights of an fp32 copy.
    merged = copy.deepcopy(backbone.text_encoder).float()
    with torch.no_grad():
        before = merged(input_ids=input_ids).logits
        for name in backbone.text_modules(MODULES, LAYERS):
            merged.get_submodule(name).weight += delta(edited, name).float()
        change = merged(input_ids=input_ids).logits - before

        unedited = backbone.language_logits(input_ids).float()
        with backbone.adapted(edited):
            found = backbone.language_logits(input_ids).float() - unedited

    # In bf16 the logits themselves are accurate to about 1 % only.
    tolerance = 1e-5 if fixture == "backbone_fp32" else 0.1
    assert (found - change).norm() / change.norm() < tolerance


def test_an_edit_makes_its_answers_likelier(backbone_fp32: DiffusersBackbone) -> None:
    before = mean_loss(backbone_fp32)
    edited = editor().edit(FACTS, backbone_fp32)
    with backbone_fp32.adapted(edited):
        after = mean_loss(backbone_fp32)
    assert edited.details["edit_losses_before_rounds"] == pytest.approx([before])
    assert after < before - 0.1


def test_every_round_edits_the_model_as_edited_so_far(backbone_fp32: DiffusersBackbone) -> None:
    once = editor().edit(FACTS, backbone_fp32)
    twice = editor(rounds=2).edit(FACTS, backbone_fp32)
    with backbone_fp32.adapted(once):
        after_first = mean_loss(backbone_fp32)
    with backbone_fp32.adapted(twice):
        after_second = mean_loss(backbone_fp32)
    assert twice.details["edit_losses_before_rounds"][1] == pytest.approx(after_first, rel=1e-3)
    assert after_second < after_first


def test_rounds_end_when_the_answers_are_learned(backbone_fp32: DiffusersBackbone) -> None:
    losses = editor(rounds=5).edit(FACTS, backbone_fp32).details["edit_losses_before_rounds"]
    target = (losses[1] + losses[2]) / 2
    stopped = editor(rounds=5, target_loss=target).edit(FACTS, backbone_fp32)
    assert stopped.details["edit_losses_before_rounds"] == losses[:3]


def test_the_order_of_the_facts_does_not_matter(backbone_fp32: DiffusersBackbone) -> None:
    forward = editor().edit(FACTS, backbone_fp32)
    backward = editor().edit(FACTS[::-1], backbone_fp32)
    for name in backbone_fp32.text_modules(MODULES, LAYERS):
        assert (delta(forward, name) - delta(backward, name)).norm() < 1e-5 * delta(forward, name).norm()


def test_only_the_named_layers_change(backbone_fp32: DiffusersBackbone) -> None:
    edited = editor(layers=(4,), modules=("up_proj",)).edit(FACTS, backbone_fp32)
    assert edited.transformer is None
    assert edited.text_encoder is not None
    assert edited.text_encoder.config["target_modules"] == ["model.language_model.layers.4.mlp.up_proj"]


def test_the_backbone_is_left_as_it_was(backbone_fp32: DiffusersBackbone) -> None:
    before = backbone_fp32.encode("sks dog").embeds
    editor(rounds=2).edit(FACTS, backbone_fp32)
    backbone_fp32.check_intact()
    assert torch.equal(backbone_fp32.encode("sks dog").embeds, before)


def test_an_answer_without_tokens_is_named(backbone_fp32: DiffusersBackbone) -> None:
    with pytest.raises(MethodError, match="Who is it"):
        editor().edit([Fact("Who is it?", " ")], backbone_fp32)


def test_a_row_that_is_not_finite_stops_the_edit(backbone_fp32: DiffusersBackbone) -> None:
    weight = backbone_fp32.text_encoder.get_submodule("model.language_model.layers.4.mlp.up_proj").weight
    kept = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = torch.nan
    try:
        with pytest.raises(MethodError, match="What is my birthday gift"):
            editor().edit(FACTS, backbone_fp32)
    finally:
        with torch.no_grad():
            weight[0, 0] = kept


@pytest.mark.parametrize("wrong", [{"eta": 0.0}, {"rounds": 0}, {"energy": 0.0}, {"energy": 1.5}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        editor(**wrong)


def test_a_layer_that_is_not_there_is_refused(backbone_fp32: DiffusersBackbone) -> None:
    with pytest.raises(ConfigError, match="26"):
        editor(layers=(26,)).edit(FACTS, backbone_fp32)
