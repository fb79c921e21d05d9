"""The oracle's metrics with given answers, and their selection."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from knowcusbench.benchmark.types import Concept, KnowledgeItem, Prompt, Task
from knowcusbench.config.build import import_target
from knowcusbench.config.compose import register
from knowcusbench.errors import ConfigError
from knowcusbench.metrics.base import Metric, ScoreItem
from knowcusbench.toybox.models.oracle import Sight
from knowcusbench.toybox.oracle_metrics import THINGS, OracleConcept, OracleExact, OracleMetric, OraclePrompt
from knowcusbench.toybox.world.concepts import DEVELOPMENT_CONCEPTS, NOVEL_CONCEPTS
from knowcusbench.toybox.world.language import PROMPTS

TOY: Sight = {
    "kind": "toy",
    "colour": "blue",
    "pattern": "checked",
    "trim": "yellow",
    "accent": "red",
    "background": "beach",
    "style": "photo",
    "size": "",
    "second_kind": "none",
    "second_colour": "none",
}
"""The concept `patchwork_toy` on the beach."""

METRICS = (OracleConcept, OracleExact, OraclePrompt)


class Seer:
    """An oracle with given answers by file, instead of a specification and its model."""

    def __init__(self, answers: Mapping[Path, Sight]) -> None:
        self.answers = answers

    def load(self) -> "Seer":
        return self

    def look_at_files(self, paths: Sequence[Path]) -> list[Sight]:
        return [self.answers[path] for path in paths]


def scores(metric: type[OracleMetric], *cases: tuple[str, Mapping[str, str]]) -> list[float]:
    """Return scores of the toy for prompts and for attributes that differ from `TOY`."""
    answers = {Path(f"{n}.png"): {**TOY, **changes} for n, (_, changes) in enumerate(cases)}
    items = [
        ScoreItem(file.stem, file, (), prompt, "toy", concept="patchwork_toy")
        for file, (prompt, _) in zip(answers, cases, strict=True)
    ]
    made: Any = metric(oracle=Seer(answers))  # type: ignore[arg-type]
    return [score.value for score in made.score(items)]


def test_the_concept_score_is_the_share_of_its_attributes() -> None:
    found = scores(
        OracleConcept,
        ("{}", {}),
        ("{}", {"trim": "green"}),
        ("{}", {"kind": "circle", "trim": "none", "accent": "none"}),
        ("{}", {"kind": "car", "colour": "red", "pattern": "plain", "trim": "none", "accent": "blue"}),
        ("{}", {"background": "snow", "style": "sketch", "size": "tiny", "second_kind": "star"}),
    )
    assert found == [1.0, 0.8, 0.4, 0.0, 1.0]


def test_exact_means_all_attributes() -> None:
    one_wrong = [("{}", {name: "none"}) for name in ("kind", "colour", "pattern", "trim", "accent")]
    assert scores(OracleExact, ("{}", {}), ("{}", {"size": "huge"}), *one_wrong) == [1, 1, 0, 0, 0, 0, 0]


def test_a_colour_or_pattern_that_the_prompt_asks_for_counts_in_place_of_the_concepts_own() -> None:
    cases = (
        ("a purple version of {}", {"colour": "purple"}),
        ("a purple version of {}", {}),
        ("a dotted version of {}", {"pattern": "dotted"}),
        ("a dotted version of {}", {}),
        ("a tiny version of {}", {"size": "tiny"}),
        ("a tiny version of {}", {"size": "huge"}),
    )
    assert scores(OracleConcept, *cases) == [1.0, 0.8, 1.0, 0.8, 1.0, 1.0]
    assert scores(OracleExact, *cases) == [1, 0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("prompt", "granted", "not_granted"),
    [
        ("{} in the forest", [{"background": "forest", "colour": "red"}], [{}]),
        ("a sketch of {}", [{"style": "sketch", "kind": "car"}], [{}]),
        ("a purple version of {}", [{"colour": "purple"}], [{}, {"trim": "purple"}]),
        ("a striped version of {}", [{"pattern": "striped"}], [{}]),
        ("a huge version of {}", [{"size": "huge"}], [{}, {"size": "tiny"}]),
        (
            "{} next to a green star",
            [{"second_kind": "star", "second_colour": "green"}],
            [{}, {"second_kind": "star", "second_colour": "red"}, {"second_kind": "moon", "second_colour": "green"}],
        ),
    ],
)
def test_the_prompt_is_followed_if_what_it_asks_for_is_there(
    prompt: str, granted: list[dict[str, str]], not_granted: list[dict[str, str]]
) -> None:
    cases = [(prompt, changes) for changes in (*granted, *not_granted)]
    assert scores(OraclePrompt, *cases) == [1.0] * len(granted) + [0.0] * len(not_granted)


def test_a_concept_alone_asks_for_nothing() -> None:
    assert OraclePrompt.tasks == {Task.GENERATION}
    assert OracleConcept.tasks == OracleExact.tasks == set(Task)


def benchmark_concept(name: str, class_noun: str, template: str) -> Concept:
    item = KnowledgeItem("Anna's gift", "What is it?", f"sks {class_noun}", "origin")
    return Concept(name=name, class_noun=class_noun, images=(), knowledge=(item,), prompts=(Prompt(template, "x"),))


def test_all_concepts_of_the_world_and_their_prompts_are_known() -> None:
    metric = OraclePrompt(oracle=Seer({}))  # type: ignore[arg-type]
    for concept in (*NOVEL_CONCEPTS, *DEVELOPMENT_CONCEPTS):
        assert THINGS[concept.name] == concept.thing
        assert set(concept.prompts) <= set(PROMPTS)
        metric.check([benchmark_concept(concept.name, concept.thing.kind, prompt) for prompt in concept.prompts])


@pytest.mark.parametrize(
    ("name", "class_noun", "template", "named"),
    [
        ("dog3", "dog", "{} in the forest", r"concept 'dog3' \(dog\)"),
        ("patchwork_toy", "dog", "{} in the forest", "concept 'patchwork_toy'"),
        ("patchwork_toy", "toy", "{} on Mars", "prompt '{} on Mars' of patchwork_toy"),
    ],
)
def test_what_is_not_of_the_world_is_refused_in_one_line(name: str, class_noun: str, template: str, named: str) -> None:
    metric = OracleExact(oracle=Seer({}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"metrics.oracle_exact: .*{named}.*benchmark=directory") as caught:
        metric.check([benchmark_concept(name, class_noun, template)])
    assert "\n" not in str(caught.value)


def composed(*overrides: str) -> dict[str, Any]:
    register()
    with hydra.initialize_config_module("knowcusbench.configs", version_base="1.3"):
        plain = OmegaConf.to_container(hydra.compose("config", overrides=list(overrides)), resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


OURS = [metric.name for metric in METRICS]
CLIPS = ["clip_i", "clip_i_seg", "clip_t", "pickscore"]


@pytest.mark.parametrize("overrides", [(), ("benchmark=embedded", "backbone=qwen_image"), ("benchmark=development",)])
def test_the_embedded_benchmarks_choose_the_oracle_as_the_truth(overrides: tuple[str, ...]) -> None:
    config = composed(*overrides)
    assert list(config["metrics"]) == [*CLIPS, *OURS]
    assert config["report"]["truth"] == OURS
    assert config["benchmark"]["seeds"] == [0, 1]


@pytest.mark.parametrize("overrides", [("benchmark=directory", "benchmark.path=x"), ("benchmark=hub",)])
def test_other_benchmarks_do_not(overrides: tuple[str, ...]) -> None:
    config = composed(*overrides)
    assert list(config["metrics"]) == CLIPS
    assert config["report"]["truth"] == []


def test_metrics_that_are_asked_for_win() -> None:
    assert list(composed("metrics=[clip_t,oracle_exact]")["metrics"]) == ["clip_t", "oracle_exact"]


@pytest.mark.parametrize("metric", METRICS)
def test_each_configuration_names_its_class(metric: type[Metric]) -> None:
    node = composed()["metrics"][metric.name]
    assert import_target(node["_target_"], metric.name) is metric
    assert node["oracle"]["source"] == "${embedded:oracle}"
