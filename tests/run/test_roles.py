"""A method's role is the one that its class declares, wherever the class lies."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import yaml

from knowcusbench.adaptation.method import Method, Role
from knowcusbench.adapters.types import Adaptation
from knowcusbench.analysis.leaderboard import in_order, kind_of
from knowcusbench.analysis.types import MetricHeading, RowKind
from knowcusbench.benchmark.types import Concept, KnowledgeItem
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_t import ClipT
from knowcusbench.metrics.pickscore import PickScore
from knowcusbench.run.layout import RunStore
from knowcusbench.run.recorded import method_record, record_of, write_recorded


@dataclass(frozen=True, kw_only=True)
class Base(Method):
    """A third party's method, in a file with the name of a control."""

    def adapt(self, concept: Concept, *_: object) -> Adaptation:
        return Adaptation()

    def subject(self, concept: Concept, item: KnowledgeItem) -> str:
        return f"their {concept.class_noun}"


@dataclass(frozen=True, kw_only=True)
class Ceiling(Base):
    role: ClassVar[Role] = Role.CEILING


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("theirs", "theirs.base"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["theirs.base"].Base = Base  # type: ignore[attr-defined]


RESOLVED = {"method": {"_target_": "theirs.base.Base"}, "cache_dir": "/cache"}


def recorded(store: RunStore, concepts: Sequence[Concept]):
    return method_record(store, "base", concepts)


def test_a_plugin_in_a_file_called_base_is_ranked_as_a_method(plugin: None, dog: Concept, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    write_recorded(store, "base", RESOLVED, record_of(Base(), RESOLVED, [dog]))
    role = recorded(store, [dog]).role
    assert kind_of(role) is RowKind.METHOD
    assert in_order({"c": Ceiling().role, "base": role, "f": Role.FLOOR}) == [
        ("f", Role.FLOOR),
        ("base", Role.METHOD),
        ("c", Role.CEILING),
    ]


def test_role_and_subjects_are_read_without_the_method_s_code(
    plugin: None, dog: Concept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    store = RunStore(tmp_path)
    made = record_of(Ceiling(), {**RESOLVED, "method": {"_target_": f"{__name__}.Ceiling"}}, [dog])
    write_recorded(store, "base", RESOLVED, made)
    monkeypatch.delitem(sys.modules, "theirs.base")
    assert recorded(store, [dog]) == made
    assert made.subjects == {dog.name: ["their dog"] * len(dog.knowledge)}
    # An earlier version recorded neither.
    store.config("base").write_text(yaml.safe_dump(RESOLVED))
    found = recorded(store, [dog])
    assert (found.role, found.subjects) == (Role.METHOD, {})
    assert "can't import 'theirs.base.Base'" in capfd.readouterr().err


def test_a_record_of_an_earlier_version_takes_both_from_the_class(plugin: None, dog: Concept, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.config("base").parent.mkdir()
    store.config("base").write_text(yaml.safe_dump(RESOLVED))
    found = recorded(store, [dog])
    assert found.role is Role.METHOD
    assert found.subjects == {dog.name: ["their dog"] * len(dog.knowledge)}
    assert found.method == {"_class_": "Base", "_version_": 1}


def test_digits_are_those_of_the_scale_unless_a_metric_says_otherwise() -> None:
    clip_spec, preference_spec = ClipSpec(source="there"), TransformersClipSpec(source="there")
    digits = {scale: MetricHeading.of(ClipI(encoder=clip_spec, scale=scale)).decimals for scale in (1, 2.5, 10, 100)}
    assert digits == {1: 3, 2.5: 3, 10: 2, 100: 1}
    assert MetricHeading.of(ClipT(encoder=clip_spec, clamp=True)).decimals == 3
    assert MetricHeading.of(PickScore(encoder=preference_spec)).decimals == 2
