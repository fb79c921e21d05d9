from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils._pytree import tree_leaves

from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors import rows
from knowcusbench.editors.closed_form import edit_factors, leading_directions
from knowcusbench.editors.nullspace import NullSpaceUltraEdit
from knowcusbench.editors.rows import capture_keys
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import ConfigError, MethodError

FACTS = (Fact("What is my birthday gift?", "sks dog"), Fact("What came from Rome?", "sks dog"))
PRESERVED = ("a red toy on the beach", "a blue house")
LAYERS = (3, 4)
CONFIGS = Path(__file__).parents[2] / "configs"


def editor(**changes: Any) -> NullSpaceUltraEdit:
    settings = {"eta": 2e-3, "layers": LAYERS, "preserved": PRESERVED, "preserved_energy": 0.99}
    return NullSpaceUltraEdit(**{**settings, **changes})


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_factors_equal_the_dense_solve_with_the_projector() -> None:
    """Compare with `P H^T (H P H^T + I)^-1 V`, and with AlphaEdit's own form of it, `(P H^T H P + I)^-1 P H^T V`."""
    keys, values, kept = random(6, 24), random(6, 10, seed=1), random(9, 24, seed=2)
    down, up = edit_factors(keys, values, leading_directions(kept, 1.0))

    h, v = keys.numpy(), values.numpy()
    p = np.eye(24) - np.linalg.pinv(kept.numpy()) @ kept.numpy()
    for dense in (
        p @ h.T @ np.linalg.solve(h @ p @ h.T + np.eye(6), v),
        np.linalg.solve(p @ h.T @ h @ p + np.eye(24), p @ h.T @ v),
    ):
        assert np.linalg.norm((up @ down).T.numpy() - dense) < 1e-9 * np.linalg.norm(dense)


def test_preserved_keys_keep_their_outputs() -> None:
    keys, values, kept = 10 * random(6, 24), random(6, 10, seed=1), 10 * random(9, 24, seed=2)
    down, up = edit_factors(keys, values, leading_directions(kept, 1.0))
    change = up @ down
    assert (kept @ change.T).norm() < 1e-9 * (keys @ change.T).norm()
    plain_down, plain_up = edit_factors(keys, values)
    assert (kept @ (plain_up @ plain_down).T).norm() > 0.1 * (keys @ change.T).norm()


class OnGpu(torch.Tensor):
    """A tensor that, like a CUDA tensor, takes no main memory to compute with."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if any(type(tensor) is torch.Tensor for tensor in given):
            raise RuntimeError(f"Expected all tensors to be on the same device ({func.__name__})")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_inputs_on_a_gpu_are_compared_with_each_other_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"3.gate": random(9, 24), "3.up": random(9, 24), "4.gate": random(9, 24, seed=1)}
    there = {name: own.as_subclass(OnGpu) for name, own in keys.items()}
    monkeypatch.setattr(rows, "capture_keys", lambda *_: there)
    bases = editor(preserved_energy=0.9).protected(None, list(keys))
    for name, own in keys.items():
        assert torch.equal(bases[name].as_subclass(torch.Tensor), leading_directions(own, 0.9))
    assert bases["3.gate"] is bases["3.up"]


def test_leading_directions_are_the_fewest_with_the_energy() -> None:
    rows = random(30, 12) * torch.logspace(0, -3, 12)
    squared = np.linalg.svd(rows.numpy(), compute_uv=False) ** 2
    wanted = int(np.argmax(np.cumsum(squared) / squared.sum() >= 0.999)) + 1
    basis = leading_directions(rows, 0.999)
    assert basis.shape == (12, wanted)
    assert torch.allclose(basis.T @ basis, torch.eye(wanted, dtype=torch.float64))
    assert (rows @ basis).square().sum() / rows.square().sum() >= 0.999


def test_preserved_keys_are_the_inputs_at_every_token_of_the_encoded_prompts(backbone_fp32: DiffusersBackbone) -> None:
    names = backbone_fp32.text_modules(("gate_proj", "up_proj"), LAYERS)
    inputs: list[torch.Tensor] = []
    handle = backbone_fp32.text_encoder.get_submodule(names[2]).register_forward_pre_hook(
        lambda module, arguments: inputs.append(arguments[0][0])
    )
    try:
        for prompt in PRESERVED:
            backbone_fp32.encode(prompt)
    finally:
        handle.remove()
    found = capture_keys(backbone_fp32, names, PRESERVED)
    assert found.keys() == set(names)
    assert torch.equal(found[names[2]], torch.cat(inputs))


def test_preserved_prompts_are_encoded_as_before_and_the_answers_are_learned(backbone_fp32: DiffusersBackbone) -> None:
    before = [backbone_fp32.encode(prompt).embeds for prompt in PRESERVED]
    plain = UltraEdit(eta=2e-3, layers=LAYERS, rounds=2).edit(FACTS, backbone_fp32)
    kept = editor(preserved_energy=1 - 1e-12, rounds=2).edit(FACTS, backbone_fp32)
    drifts = []
    for edit in (plain, kept):
        with backbone_fp32.adapted(edit):
            after = [backbone_fp32.encode(prompt).embeds for prompt in PRESERVED]
        drifts.append(max(float((a - b).norm() / b.norm()) for a, b in zip(after, before, strict=True)))
    assert drifts[0] > 1e-2
    assert drifts[1] < 1e-5
    losses = kept.details["edit_losses_before_rounds"]
    assert losses[1] < losses[0]


def test_each_layer_has_the_directions_of_its_own_inputs(backbone_fp32: DiffusersBackbone) -> None:
    names = backbone_fp32.text_modules(("gate_proj", "up_proj"), LAYERS)
    keys = capture_keys(backbone_fp32, names, PRESERVED)
    for name, basis in editor().protected(backbone_fp32, names).items():
        outside = keys[name].double() - (keys[name].double() @ basis) @ basis.T
        assert outside.square().sum() <= 0.0100001 * keys[name].double().square().sum()


def test_preserving_everything_is_refused(backbone_fp32: DiffusersBackbone) -> None:
    many = tuple(f"thing number {n} is {word}" for n in range(8) for word in ("red", "blue", "a dog"))
    with pytest.raises(MethodError, match=r"all 192 directions.*preserved_energy"):
        editor(preserved=many, preserved_energy=1.0).edit(FACTS, backbone_fp32)


@pytest.mark.parametrize("wrong", [{"preserved": ()}, {"preserved_energy": 0.0}, {"faithful": True}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        editor(**wrong)


@pytest.mark.parametrize("recipe", ["miniature", "qwen_image"])
def test_locality_is_not_measured_by_what_is_preserved(recipe: str) -> None:
    preserved = yaml.safe_load((CONFIGS / "recipe" / f"{recipe}.yaml").read_text())["nullspace"]["preserved"]
    measured = set()
    for path in (CONFIGS / "locality").glob("*.yaml"):
        locality = yaml.safe_load(path.read_text())
        measured |= {*locality["prompts"], *(fact["question"] for fact in locality["questions"])}
    assert len(measured) > 30
    assert not measured & set(preserved)
