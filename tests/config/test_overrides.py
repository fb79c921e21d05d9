"""A value for a text key is kept as it was typed."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from knowcusbench.config.compose import compose_config, explain
from knowcusbench.config.overrides import as_typed
from knowcusbench.errors import ConfigError

NAMES = ["1.10", "2024_10_05", "1e5", "12e4567", "true", "False", "inf", "nan", "-3", "007", "1_0.5_0", "null_", "dog"]


@pytest.mark.parametrize("name", NAMES)
def test_a_text_of_a_section_keeps_its_spelling(name: str) -> None:
    words = [f"run.name={name}", f"benchmark.revision={name}", f"++run.label={name}", f"grid.concepts=[{name}, {name}]"]
    config = compose_config(words)
    assert [config.run.name, config.benchmark.revision, config.run.label, *config.grid.concepts] == [name] * 5


@pytest.mark.parametrize("name", ["1.10", "2024_10", "true"])
def test_a_text_of_a_plug_in_keeps_its_spelling(name: str) -> None:
    config = compose_config([f"backbone.revision={name}", f"backbone.source={name}", "backbone.steps=1_0"])
    assert (config.backbone.revision, config.backbone.source, config.backbone.steps) == (name, name, 10)


def test_what_takes_numbers_gets_numbers() -> None:
    words = ["grid.seeds=[1,2]", "grid.prompts=3", "protocol.scale=1e2", "effects.enabled=false", "run.label=null"]
    assert as_typed(words, lambda: pytest.fail("no plug-in is concerned")) == words
    config = compose_config(words)
    assert (list(config.grid.seeds), config.protocol.scale, config.run.label) == ([1, 2], 100.0, None)


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("run.name=1.10,1.1", ["1.10", "1.1"]),
        ("run.name=choice(1.10,2024_10)", ["1.10", "2024_10"]),
        ("grid.concepts=[1.10],[1.1,dog]", [["1.10"], ["1.1", "dog"]]),
    ],
)
def test_the_values_of_a_sweep_keep_their_spelling(word: str, values: list[object]) -> None:
    (typed,) = as_typed([word], lambda: pytest.fail("no plug-in is concerned"))
    parsed = OverridesParser.create().parse_override(typed).sweep_string_iterator()
    assert [OverridesParser.create().parse_override(f"x={value}").value() for value in parsed] == [
        [getattr(entry, "text", entry) for entry in value] if isinstance(value, list) else value for value in values
    ]


@pytest.mark.parametrize("value", ["café", "a#b", "R&D", "it's", "a=b", "(1)", "50€", 'a"b'])
def test_a_word_that_the_grammar_refuses_has_the_quotes_that_help(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config([f"run.name={value}"])
    message = str(caught.value)
    assert f"run.name={value}: not an override" in message
    assert "\n" not in message

    quoted = shlex.split(message.rpartition("grammar: ")[2])
    assert compose_config(quoted).run.name == value


def test_a_list_that_is_not_closed_has_no_hint_of_quotes() -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config(["grid.seeds=[1"])
    assert "quote" not in str(caught.value)
    assert explain(caught.value.__cause__) == str(caught.value)  # type: ignore[arg-type]
