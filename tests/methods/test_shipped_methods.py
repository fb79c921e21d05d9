"""Every shipped method, built from its YAML and the miniature's recipe, keeps the contract."""

from dataclasses import asdict
from pathlib import Path

import hydra
import pytest
import torch

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.method import Method
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Concept
from knowcusbench.config.build import build
from knowcusbench.config.compose import register
from knowcusbench.errors import MethodError
from knowcusbench.testing import check_method

EDITORS = ("ultraedit", "ultraedit_nullspace", "gated", "ft")
METHODS = ("mokus", "naive_db", "enc_ft", "base", "anchor", "leak")
FEW_STEPS = (
    "recipe.dreambooth.steps=2",
    "recipe.dreambooth.prior_images=1",
    "recipe.dreambooth.prior_prompts=[a fish]",
    "recipe.naive_db.steps=2",
    "recipe.encoder_tuning.steps=2",
    "recipe.ultraedit.rounds=2",
    "recipe.nullspace.rounds=2",
    "recipe.ft.rounds=2",
)


def configured(name: str, recipe: str, *overrides: str) -> Method:
    register()
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        composed = hydra.compose("config", [f"method={name}", f"recipe={recipe}", *overrides])
    method: Method = build(composed.method, "method")
    return method


def test_these_are_all() -> None:
    folder = Path(__file__).parents[2] / "configs" / "method"
    assert {file.stem for file in folder.glob("*.yaml")} == set(METHODS)
    assert {file.stem for file in (folder.parent / "editor").glob("*.yaml")} == set(EDITORS)


@pytest.mark.parametrize("name", METHODS)
def test_a_shipped_method_keeps_the_contract(
    name: str, backbone: DiffusersBackbone, dog: Concept, tmp_path: Path
) -> None:
    check_method(configured(name, "miniature", *FEW_STEPS), backbone, dog, tmp_path)


@pytest.mark.parametrize("overrides", [[f"editor={name}"] for name in EDITORS[1:]] + [["editor.merge=true"]], ids=str)
def test_mokus_keeps_the_contract_with_every_editor(
    overrides: list[str], backbone: DiffusersBackbone, dog: Concept, tmp_path: Path
) -> None:
    check_method(configured("mokus", "miniature", *FEW_STEPS, *overrides), backbone, dog, tmp_path)


@pytest.mark.parametrize("recipe", ["miniature", "qwen_image"])
@pytest.mark.parametrize("name", EDITORS)
def test_every_editor_has_settings_in_every_recipe(name: str, recipe: str) -> None:
    settings = asdict(configured("mokus", recipe, f"editor={name}"))["editor"]
    layers = {"miniature": (3, 4, 5), "qwen_image": tuple(range(18, 26))}
    assert settings["layers"] == layers[recipe]


def test_stage_one_is_trained_once_between_them(backbone: DiffusersBackbone, dog: Concept, tmp_path: Path) -> None:
    cache = AdapterCache(tmp_path)
    adaptations = [
        configured(name, "miniature", *FEW_STEPS).adapt(dog, backbone, cache)
        for name in ("mokus", "enc_ft", "anchor", "leak")
    ]
    assert len(list(tmp_path.iterdir())) == 1
    assert len({adaptation.cost.seconds["visual"] for adaptation in adaptations}) == 1
    for adaptation in adaptations[1:]:
        assert adaptation.transformer is not None
        assert adaptations[0].transformer is not None
        for weight, tensor in adaptations[0].transformer.weights.items():
            assert torch.equal(adaptation.transformer.weights[weight], tensor)


@pytest.mark.parametrize(
    ("name", "subject", "stages"),
    [
        ("mokus", "my birthday gift", {"visual", "textual"}),
        ("enc_ft", "my birthday gift", {"visual", "textual"}),
        ("anchor", "sks dog", {"visual"}),
        ("leak", "dog", {"visual"}),
        ("base", "my birthday gift", set()),
        ("naive_db", "my birthday gift", {"visual"}),
    ],
)
def test_what_a_method_is_prompted_with_and_pays_for(
    name: str, subject: str, stages: set[str], backbone: DiffusersBackbone, dog: Concept, tmp_path: Path
) -> None:
    method = configured(name, "miniature", *FEW_STEPS)
    concept = dog.with_knowledge(dog.knowledge[0])
    adaptation = method.adapt(concept, backbone, AdapterCache(tmp_path))
    assert method.subject(concept, concept.knowledge[0]) == subject
    assert set(adaptation.cost.seconds) == stages
    assert (adaptation.transformer is not None) == ("visual" in stages)
    assert (adaptation.text_encoder is not None) == ("textual" in stages)


def test_naive_db_trains_on_the_phrase_of_its_item(backbone: DiffusersBackbone, dog: Concept, tmp_path: Path) -> None:
    method = configured("naive_db", "miniature", *FEW_STEPS)
    assert method.per_knowledge
    results = [method.adapt(dog.with_knowledge(item), backbone, AdapterCache(tmp_path)) for item in dog.knowledge]
    keys = [result.details["key"]["instance_prompt"] for result in results]
    assert keys == ["my birthday gift", "the one from Rome"]


def test_naive_db_takes_one_item_at_a_time(backbone: DiffusersBackbone, dog: Concept, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="dog3"):
        configured("naive_db", "miniature").adapt(dog, backbone, AdapterCache(tmp_path))


def test_the_recipe_for_qwen_image_is_the_papers() -> None:
    settings = asdict(configured("mokus", "qwen_image"))
    stage_one = {"steps": 500, "learning_rate": 2e-4, "batch_size": 1, "rank": 4, "alpha": 4, "seed": 42}
    stage_one |= {"init": "gaussian"}
    assert settings["dreambooth"] | stage_one == settings["dreambooth"]
    assert not settings["dreambooth"]["prior_images"]
    assert asdict(configured("naive_db", "qwen_image"))["dreambooth"] == settings["dreambooth"]
    edit = {"eta": 1e-6, "modules": ("gate_proj", "up_proj"), "layers": tuple(range(18, 26)), "rounds": 1}
    assert settings["editor"] | edit == settings["editor"]
    assert len(settings["editor"]["layers"]) * len(settings["editor"]["modules"]) == 16


def test_overrides_reach_the_method() -> None:
    overrides = ["recipe.ultraedit.eta=0.5", "recipe.dreambooth.rank=3", "editor.warmup=[{question: Who?, answer: me}]"]
    settings = asdict(configured("mokus", "miniature", *overrides))
    assert settings["editor"]["warmup"] == ({"question": "Who?", "answer": "me"},)
    assert settings["editor"]["eta"] == 0.5
    assert settings["dreambooth"]["rank"] == 3
