"""Commands that only read a run refuse overrides that would have no effect."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from knowcusbench.config.compose import compose_config
from knowcusbench.errors import ConfigError
from knowcusbench.run.recorded import recorded_config


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with nothing but the configurations of two methods."""
    root = tmp_path_factory.mktemp("runs")
    (root / "run" / "configs").mkdir(parents=True)
    for method in ("base", "anchor"):
        words = [f"method={method}", "grid.prompts=1", "benchmark=directory", "benchmark.path=/old", *place(root)]
        composed = compose_config(words)
        resolved = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
        (root / "run" / "configs" / f"{method}.yaml").write_text(yaml.safe_dump(resolved), encoding="utf-8")
    return root


def place(root: Path) -> tuple[str, ...]:
    return f"run.root={root}", "run.name=run", f"cache_dir={root / 'cache'}"


def read(root: Path, *words: str):
    given = [*place(root), *words]
    return recorded_config(compose_config(given), given)


@pytest.mark.parametrize(
    "word",
    [
        "protocol.reduction=micro",
        "protocol=dreambooth",
        "metrics=[clip_t]",
        "grid.prompts=5",
        "grid.seeds=[7]",
        "method=mokus",
        "editor.eta=9",
        "report.truth=[clip_t]",
        "+backbone.never=1",
    ],
)
def test_an_override_without_effect_is_refused_by_name(root: Path, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(root, word)
    assert str(caught.value).startswith(f"{word}: has no effect here")


def test_of_a_key_that_is_given_twice_the_last_word_counts(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"^grid\.prompts=5: has no effect here"):
        read(root, "grid.prompts=1", "grid.prompts=5")
    assert read(root, "grid.prompts=5", "grid.prompts=1").grid.prompts == 1


@pytest.mark.parametrize(
    "words",
    [
        ("method=base",),
        ("method=anchor", "grid.prompts=1"),
        ("device=cpu",),
        ("report.percent=true",),
        ("tracker=tensorboard",),
    ],
)
def test_what_is_heeded_or_says_what_the_run_says_is_taken(root: Path, words: tuple[str, ...]) -> None:
    config = read(root, *words)
    assert config.grid.prompts == 1
    assert config.benchmark.path == "/old"


def test_a_benchmark_that_moved_is_read_where_it_is_said_to_be(root: Path) -> None:
    config = read(root, "benchmark.path=/new", "report.precision=2")
    assert (config.benchmark.path, config.report.precision) == ("/new", 2)
