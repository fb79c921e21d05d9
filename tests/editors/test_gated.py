import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from knowcusbench.adapters.peft_files import load_adaptation, save_adaptation
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.gated import GatedUltraEdit
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import ConfigError, WeightsError

FACTS = (Fact("What is my birthday gift?", "sks dog"), Fact("What came from Rome?", "sks dog"))
OTHER = "a red toy house on the beach"
SETTINGS: dict[str, Any] = {"eta": 2e-3, "layers": (3, 4, 5), "rounds": 2}


def editor(**changes: Any) -> GatedUltraEdit:
    return GatedUltraEdit(**{**SETTINGS, "temperature": 0.01, "bias": 0.95, **changes})


def drift(backbone: DiffusersBackbone, adaptation: Adaptation) -> float:
    before = backbone.encode(OTHER).embeds
    with backbone.adapted(adaptation):
        after = backbone.encode(OTHER).embeds
    return float((after - before).norm() / before.norm())


def loss(backbone: DiffusersBackbone, adaptation: Adaptation) -> float:
    """Return the mean loss of the edited answers."""
    names = backbone.text_modules(("up_proj",), (3,))
    with backbone.adapted(adaptation):
        parts = UltraEdit(**SETTINGS).capture(backbone, names, FACTS)
    return sum(part.loss for part in parts) / len(parts)


def test_the_edited_answers_are_learned_as_without_a_gate_and_other_prompts_are_left_alone(
    backbone_fp32: DiffusersBackbone,
) -> None:
    plain = UltraEdit(**{**SETTINGS, "rounds": 3}).edit(FACTS, backbone_fp32)
    gated = editor(rounds=3, temperature=2e-4, bias=0.999).edit(FACTS, backbone_fp32)
    first = plain.details["edit_losses_before_rounds"][0]
    learned = first - loss(backbone_fp32, plain)
    assert learned > 2
    moved = drift(backbone_fp32, plain)
    assert moved > 1

    def kept(bias: float) -> tuple[float, float]:
        """What a gate with this bias leaves of what is learned and of the drift."""
        assert gated.text_encoder is not None
        made = replace(gated, text_encoder=gated.text_encoder.with_gate(temperature=2e-4, bias=bias))
        return (first - loss(backbone_fp32, made)) / learned, drift(backbone_fp32, made) / moved

    for bias, learns, spares in ((0.999, True, True), (-2.0, True, False), (2.0, False, True)):
        facts, others = kept(bias)
        assert (facts > 0.9) == learns, bias
        assert (others < 0.02) == spares, bias


def test_the_keys_are_the_edited_inputs_of_every_round(backbone_fp32: DiffusersBackbone) -> None:
    (name,) = backbone_fp32.text_modules(("up_proj",), (3,))
    one, two = (editor(rounds=rounds, layers=(3,)).edit(FACTS, backbone_fp32) for rounds in (1, 2))
    assert one.text_encoder is not None
    assert two.text_encoder is not None
    assert one.text_encoder.gate is not None
    assert two.text_encoder.gate is not None
    rows = torch.cat([part.rows[name][0] for part in editor().capture(backbone_fp32, (name,), FACTS)])
    assert torch.equal(one.text_encoder.gate.keys[name], rows)
    # Layers before the only edited one do not change.
    assert torch.equal(two.text_encoder.gate.keys[name], torch.cat([rows, rows]))


def test_the_gate_is_stored_and_can_be_set_on_disk(backbone_fp32: DiffusersBackbone, tmp_path: Path) -> None:
    made = editor().edit(FACTS, backbone_fp32)
    save_adaptation(made, tmp_path / "a")
    loaded = load_adaptation(tmp_path / "a")
    assert loaded.text_encoder is not None
    assert made.text_encoder is not None
    assert loaded.text_encoder.tensors.keys() == made.text_encoder.tensors.keys()
    for name, tensor in made.text_encoder.tensors.items():
        assert torch.equal(loaded.text_encoder.tensors[name], tensor)
    assert drift(backbone_fp32, loaded) == drift(backbone_fp32, made)

    path = tmp_path / "a" / "adaptation.json"
    record = json.loads(path.read_text())
    assert record["gates"] == {"text_encoder": {"temperature": 0.01, "bias": 0.95, "parts": {}}}
    record["gates"]["text_encoder"]["bias"] = -1.0
    path.write_text(json.dumps(record))
    opened = load_adaptation(tmp_path / "a")
    assert opened.text_encoder is not None
    assert opened.text_encoder.gate is not None
    assert opened.text_encoder.gate.bias == -1.0
    assert drift(backbone_fp32, opened) > drift(backbone_fp32, made)


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_damaged_keys_are_refused(damage: str, backbone_fp32: DiffusersBackbone, tmp_path: Path) -> None:
    save_adaptation(editor().edit(FACTS, backbone_fp32), tmp_path / "a")
    path = tmp_path / "a" / "text_encoder" / "gate.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match=r"gate\.safetensors"):
        load_adaptation(tmp_path / "a")


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"bias": 2.0}, {"merge": True}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        editor(**wrong)
