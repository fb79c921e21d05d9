import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file

from knowcusbench.adapters.peft_files import file_digest, load_adaptation, save_adaptation
from knowcusbench.adapters.types import Adaptation, Adapter, Cost
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.errors import MethodError, WeightsError


def random_adapter(backbone: DiffusersBackbone, ranks: dict[str, int]) -> Adapter:
    """Return an adapter of the transformer's layers with different ranks, like an edit's."""
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name, rank in ranks.items():
        layer = backbone.transformer.get_submodule(name)
        factors[name] = (
            torch.randn(rank, layer.in_features, generator=generator),
            torch.randn(layer.out_features, rank, generator=generator),
        )
    return Adapter.from_factors(factors)


@pytest.fixture
def adaptation(backbone_fp32: DiffusersBackbone) -> Adaptation:
    first, second = backbone_fp32.lora_targets[:2]
    return Adaptation(
        transformer=random_adapter(backbone_fp32, {first: 2, second: 5}),
        cost=Cost({"visual": 1.25, "textual": 0.5}, 2**33),
        details={"loss": 0.125, "ranks": [2, 5]},
    )


def test_an_adaptation_comes_back_bit_for_bit(adaptation: Adaptation, tmp_path: Path) -> None:
    save_adaptation(adaptation, tmp_path / "a")
    loaded = load_adaptation(tmp_path / "a")

    assert loaded.text_encoder is None
    assert loaded.cost == adaptation.cost
    assert loaded.details == adaptation.details
    assert adaptation.transformer is not None
    assert loaded.transformer is not None
    assert loaded.transformer.config == adaptation.transformer.config
    assert loaded.transformer.weights.keys() == adaptation.transformer.weights.keys()
    for name, tensor in adaptation.transformer.weights.items():
        assert loaded.transformer.weights[name].dtype == torch.float32
        assert torch.equal(loaded.transformer.weights[name], tensor)


def test_the_same_adaptation_gives_the_same_bytes(adaptation: Adaptation, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        save_adaptation(adaptation, tmp_path / name)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1]


def test_the_order_of_the_targets_does_not_change_the_bytes(adaptation: Adaptation, tmp_path: Path) -> None:
    adapter = adaptation.transformer
    assert adapter is not None
    for name, targets in [("a", adapter.config["target_modules"]), ("b", adapter.config["target_modules"][::-1])]:
        ordered = Adapter(adapter.weights, {**adapter.config, "target_modules": targets})
        save_adaptation(Adaptation(transformer=ordered), tmp_path / name)
    configs = [tmp_path / name / "transformer" / "adapter_config.json" for name in ("a", "b")]
    assert configs[0].read_bytes() == configs[1].read_bytes()


def test_peft_itself_loads_the_files(adaptation: Adaptation, backbone_fp32: DiffusersBackbone, tmp_path: Path) -> None:
    save_adaptation(adaptation, tmp_path / "a")
    model = PeftModel.from_pretrained(copy.deepcopy(backbone_fp32.transformer), tmp_path / "a" / "transformer")

    assert adaptation.transformer is not None
    weights = adaptation.transformer.weights
    for name in backbone_fp32.lora_targets[:2]:
        base = backbone_fp32.transformer.get_submodule(name)
        x = torch.randn(3, base.in_features, generator=torch.Generator().manual_seed(1))
        by_hand = base(x) + x @ weights[f"{name}.lora_A.weight"].T @ weights[f"{name}.lora_B.weight"].T
        assert torch.allclose(model.base_model.model.get_submodule(name)(x), by_hand, rtol=1e-5, atol=1e-4)


def test_names_in_the_file_have_pefts_prefix(adaptation: Adaptation, tmp_path: Path) -> None:
    save_adaptation(adaptation, tmp_path / "a")
    with safe_open(tmp_path / "a" / "transformer" / "adapter_model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert adaptation.transformer is not None
    assert names == {f"base_model.model.{name}" for name in adaptation.transformer.weights}


def test_nothing_adapted_is_an_adaptation_too(tmp_path: Path) -> None:
    save_adaptation(Adaptation(), tmp_path / "a")
    assert load_adaptation(tmp_path / "a") == Adaptation()


@pytest.mark.parametrize("name", ["transformer/adapter_model.safetensors", "transformer/adapter_config.json"])
def test_an_altered_file_is_refused_by_name(adaptation: Adaptation, tmp_path: Path, name: str) -> None:
    save_adaptation(adaptation, tmp_path / "a")
    path = tmp_path / "a" / name
    data = path.read_bytes()
    # The files stay valid: one bit of a tensor, or another number in the JSON.
    altered = data.replace(b'"lora_alpha": 5', b'"lora_alpha": 6') if name.endswith("json") else data[:-1] + b"\x01"
    assert altered != data
    path.write_bytes(altered)
    with pytest.raises(WeightsError, match=path.name):
        load_adaptation(tmp_path / "a")


@pytest.mark.parametrize(
    "name", ["adaptation.json", "transformer/adapter_model.safetensors", "transformer/adapter_config.json"]
)
def test_a_missing_file_is_refused_by_name(adaptation: Adaptation, tmp_path: Path, name: str) -> None:
    save_adaptation(adaptation, tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    with pytest.raises(WeightsError, match=Path(name).name):
        load_adaptation(tmp_path / "a")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 0}'])
def test_a_damaged_record_is_refused(adaptation: Adaptation, tmp_path: Path, text: str) -> None:
    save_adaptation(adaptation, tmp_path / "a")
    (tmp_path / "a" / "adaptation.json").write_text(text)
    with pytest.raises(WeightsError, match=r"adaptation\.json"):
        load_adaptation(tmp_path / "a")


@pytest.mark.parametrize("key", ["cost", "details", "merged", "gates", "digests"])
def test_a_record_that_lacks_something_is_refused(adaptation: Adaptation, tmp_path: Path, key: str) -> None:
    save_adaptation(adaptation, tmp_path / "a")
    path = tmp_path / "a" / "adaptation.json"
    record = json.loads(path.read_text())
    del record[key]
    path.write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=r"adaptation\.json"):
        load_adaptation(tmp_path / "a")


def test_a_failed_save_leaves_nothing(adaptation: Adaptation, tmp_path: Path) -> None:
    unwritable = Adaptation(adaptation.transformer, details={"not JSON": object()})
    with pytest.raises(TypeError):
        save_adaptation(unwritable, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_the_record_says_what_the_adaptation_weighs(adaptation: Adaptation, tmp_path: Path) -> None:
    save_adaptation(adaptation, tmp_path / "a")
    record = json.loads((tmp_path / "a" / "adaptation.json").read_text())
    assert adaptation.transformer is not None
    assert record["bytes"] == 4 * sum(tensor.numel() for tensor in adaptation.transformer.weights.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_neither_kept_nor_read(
    value: float, adaptation: Adaptation, tmp_path: Path
) -> None:
    save_adaptation(adaptation, tmp_path / "good")
    assert adaptation.transformer is not None
    name = next(reversed(adaptation.transformer.weights))
    adaptation.transformer.weights[name][0, 0] = value
    with pytest.raises(MethodError, match=f"{name}; nothing was saved"):
        save_adaptation(adaptation, tmp_path / "bad")
    assert not (tmp_path / "bad").exists()

    file = tmp_path / "good" / "transformer" / "adapter_model.safetensors"
    save_file({f"base_model.model.{key}": tensor for key, tensor in adaptation.transformer.weights.items()}, file)
    record = json.loads((tmp_path / "good" / "adaptation.json").read_text())
    record["digests"]["transformer"][file.name] = file_digest(file)
    (tmp_path / "good" / "adaptation.json").write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=f"{name} has NaN or infinity"):
        load_adaptation(tmp_path / "good")


def test_details_that_json_does_not_know_are_refused(adaptation: Adaptation, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="nothing was saved"):
        save_adaptation(Adaptation(adaptation.transformer, details={"loss": float("nan")}), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
