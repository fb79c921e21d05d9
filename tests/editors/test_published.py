"""`faithful`: an independent, dense version of UltraEdit's published algorithm, with real batches."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.closed_form import PublishedMoments
from knowcusbench.editors.rows import Rows
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import ConfigError, MethodError

LAYERS, MODULES, ETA = (3, 4), ("gate_proj", "up_proj"), 2e-3
EPSILON = torch.finfo(torch.float32).eps
FACTS = (
    Fact("What is it?", "sks dog"),
    Fact("What is the thing that I was given for my birthday?", "a red toy house"),
    Fact("What came from Rome?", "sks dog"),
    Fact("Who is the oldest friend of my family?", "a sks cat"),
    Fact("What does my uncle keep?", "a blue dog"),
)


def editor(**changes: Any) -> UltraEdit:
    settings = {"eta": ETA, "layers": LAYERS, "modules": MODULES, "faithful": True, "energy": 1.0}
    return UltraEdit(**{**settings, **changes})


def batch_rows(
    backbone: DiffusersBackbone, names: Sequence[str], facts: Sequence[Fact]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return keys and gradients of a padded batch, from the mean loss over all of its answer tokens."""
    tokens = [backbone.question_tokens(fact.question, fact.answer, "chat") for fact in facts]
    longest = max(ids.shape[1] for ids, _ in tokens)
    ids, labels = torch.zeros(len(facts), longest, dtype=torch.long), torch.full((len(facts), longest), -100)
    mask = torch.zeros_like(ids)
    for number, (own_ids, own_labels) in enumerate(tokens):
        ids[number, : own_ids.shape[1]] = own_ids
        labels[number, : own_ids.shape[1]] = own_labels
        mask[number, : own_ids.shape[1]] = 1
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            output.retain_grad()
            seen[name] = arguments[0], output

        return hook

    encoder = backbone.text_encoder
    handles = [encoder.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    embeddings = encoder.get_input_embeddings().weight.requires_grad_(True)
    try:
        logits = encoder(input_ids=ids, attention_mask=mask).logits
        answer = labels != -100
        nn.functional.cross_entropy(logits[answer], labels[answer]).backward()
    finally:
        embeddings.requires_grad_(False).grad = None
        for handle in handles:
            handle.remove()
    return {name: (keys[answer].detach(), output.grad[answer]) for name, (keys, output) in seen.items()}


def published(
    backbone: DiffusersBackbone, facts: Sequence[Fact], size: int, state: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the dense changes (d_out, d_in), from rows of real batches."""
    names = backbone.text_modules(MODULES, LAYERS)

    def length(fact: Fact) -> int:
        return backbone.question_tokens(fact.question, fact.answer, "chat")[0].shape[1]

    ordered = sorted(facts, key=length, reverse=True)
    batches = [batch_rows(backbone, names, ordered[at : at + size]) for at in range(0, len(ordered), size)]
    return changes_of(batches, len(facts) // size, state)


def changes_of(batches: Sequence[Rows], whole_batches: int, state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the dense changes of batches of rows. `state` is the normaliser: n, mean and var."""
    names = list(batches[0])
    for batch in batches:
        for name in names:
            x = torch.cat(batch[name], dim=1)
            m, n = len(x), state["n"]
            delta = x.mean(0) - state["mean"]
            state["mean"] = state["mean"] + m * delta / (n + m)
            state["var"] = state["var"] + m * x.var(0) + n * m * delta**2 / (n + m)
            state["n"] = n + m
    std = (state["var"] / (state["n"] - 1 + EPSILON)).sqrt()
    changes = {}
    for name in names:
        keys = torch.cat([batch[name][0] for batch in batches])
        gradients = torch.zeros(len(keys), batches[0][name][1].shape[1])
        whole = torch.cat([batch[name][1] for batch in batches[:whole_batches]])
        gradients[: len(whole)] = whole
        hat = (torch.cat([keys, gradients], dim=1) - state["mean"]) / (std + EPSILON)
        h, g = hat[:, : keys.shape[1]], hat[:, keys.shape[1] :]
        values = -ETA * (h * h).sum(1, keepdim=True) * g
        changes[name] = torch.linalg.solve(keys.T @ keys + torch.eye(keys.shape[1]), keys.T @ values).T
    return changes


def dense(adaptation: Any) -> dict[str, Tensor]:
    weights = adaptation.text_encoder.weights
    names = {name.rpartition(".lora_")[0] for name in weights}
    return {name: weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"] for name in names}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 2e-4) -> None:
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert (found[name] - expected).norm() < tolerance * expected.norm()


def fresh() -> dict[str, Any]:
    return {"n": 0, "mean": 0.0, "var": 0.0}


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_faithful_is_the_published_algorithm(size: int, backbone_fp32: DiffusersBackbone) -> None:
    """Batches of 2 and 3 leave a partial one, whose gradients are dropped."""
    found = dense(editor(batch_size=size).edit(FACTS, backbone_fp32))
    assert_same(found, published(backbone_fp32, FACTS, size, fresh()))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_faithful_is_the_published_arithmetic_on_the_same_rows(size: int, backbone_fp32: DiffusersBackbone) -> None:
    """Only the order of the last product differs, and the fp32 solve shows it."""
    made, names = editor(batch_size=size), backbone_fp32.text_modules(MODULES, LAYERS)
    parts = made.capture(backbone_fp32, names, FACTS)
    found = {name: up @ down for name, (down, up) in made.begin(backbone_fp32, names)(parts).items()}
    ordered = sorted(parts, key=lambda part: part.length, reverse=True)
    batches = []
    for batch in (ordered[at : at + size] for at in range(0, len(ordered), size)):
        tokens = sum(len(part) for part in batch)
        batches.append(
            {
                name: (
                    torch.cat([part.rows[name][0] for part in batch]),
                    # Rescaled from the mean over one fact's tokens to the mean over the batch's.
                    torch.cat([part.rows[name][1] * len(part) / tokens for part in batch]),
                )
                for name in names
            }
        )
    assert_same(found, changes_of(batches, len(FACTS) // size, fresh()), tolerance=3e-5)


def test_persistent_statistics_carry_over_as_in_the_published_algorithm(backbone_fp32: DiffusersBackbone) -> None:
    state, persistent = fresh(), editor(statistics="persistent")
    for facts in (FACTS[:2], FACTS[2:]):
        found = dense(persistent.edit(facts, backbone_fp32))
        assert_same(found, published(backbone_fp32, facts, 1, state))


def test_the_exact_edit_is_another_one(backbone_fp32: DiffusersBackbone) -> None:
    """The published variance of small chunks is too large, so its edit is weaker."""
    for name, change in dense(editor().edit(FACTS, backbone_fp32)).items():
        exact = dense(editor(faithful=False).edit(FACTS, backbone_fp32))[name]
        assert (change - exact).norm() > 0.05 * exact.norm()


def test_the_published_variance_is_too_large_for_small_chunks() -> None:
    rows = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    for size, factor in ((2, 1.22), (4, 1.12), (10, 1.05)):
        moments = PublishedMoments()
        for chunk in rows.split(size):
            moments.update(chunk)
        assert (moments.std / rows.std(0)).mean().item() == pytest.approx(factor, abs=0.02)


def test_a_batch_of_a_single_row_is_refused_before_statistics_change(backbone_fp32: DiffusersBackbone) -> None:
    single = Fact("Who?", "a")
    persistent = editor(statistics="persistent")
    with pytest.raises(MethodError, match=r"'Who\?'.*single row.*NaN.*batch_size"):
        persistent.edit([*FACTS, single], backbone_fp32)
    found, wanted = persistent.edit(FACTS, backbone_fp32), editor().edit(FACTS, backbone_fp32)
    assert_same(dense(found), dense(wanted))
    with pytest.raises(ValueError, match="NaN"):
        PublishedMoments().update(torch.ones(1, 3))


def test_fewer_facts_than_a_batch_are_refused(backbone_fp32: DiffusersBackbone) -> None:
    with pytest.raises(MethodError, match=r"5 facts in batches of 6.*at most 5"):
        editor(batch_size=6).edit(FACTS, backbone_fp32)


def test_the_published_code_has_no_warmup() -> None:
    with pytest.raises(ConfigError, match="warmup"):
        editor(warmup=FACTS)
