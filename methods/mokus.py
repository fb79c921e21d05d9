"""MoKus (arXiv 2603.12743)."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from knowcusbench import (
    Adaptation,
    AdapterCache,
    Backbone,
    Concept,
    ConfigError,
    DreamBooth,
    Editor,
    Fact,
    Method,
    edit_in_turn,
    facts_by_concept,
    facts_of,
    first_facts,
)


@dataclass(frozen=True, kw_only=True)
class MoKus(Method):
    """Visual concept learning, then textual knowledge updating.

    Stage 1 teaches the transformer that the anchor `sks <class>` shows the concept. Stage 2 edits the text encoder so
    that every question about the concept is answered by the anchor, all of them in one edit.

    Attributes:
        dreambooth: stage 1.
        editor: stage 2.
        items: number of facts edited at once: the concept's first ones; beyond its own, those of the benchmark's other
            concepts, and then `further` ones. None for all of its own.
        further: facts about something else (`first_facts`).
        scope: "concept" edits each concept's knowledge by itself. "batch" puts the knowledge of all concepts of the
            benchmark into one edit. "sequential" edits concept after concept in the benchmark's order and adds the
            edits up. With these two, all concepts share one text encoder, which is made once.
        concepts: concepts of the benchmark; filled in by `for_benchmark`.
    """

    dreambooth: DreamBooth
    editor: Editor
    items: int | None = None
    further: tuple[Fact, ...] = ()
    scope: Literal["concept", "batch", "sequential"] = "concept"
    concepts: tuple[Concept, ...] = ()

    def __post_init__(self) -> None:
        if self.items is not None and (self.items < 1 or self.scope != "concept"):
            raise ConfigError(
                "method: expected items of at least 1, and only with scope=concept, found "
                f"items={self.items}, scope={self.scope}"
            )

    def for_benchmark(self, concepts: tuple[Concept, ...]) -> "MoKus":
        return replace(self, concepts=concepts)

    def adapt(self, concept: Concept, backbone: Backbone, cache: AdapterCache) -> Adaptation:
        groups = self._groups(concept)
        visual = self.dreambooth.fit(concept, backbone, concept.anchor, cache)
        if self.scope == "concept":
            edit = self.editor.edit(groups[0], backbone)
        else:
            edit = self._edit_all(groups, backbone, cache)
        edited = [asdict(fact) for group in groups for fact in group]
        return visual.joined(replace(edit, details={**edit.details, "edited_facts": edited}))

    def training_passes(self, concept: Concept) -> int:
        return self.dreambooth.training_passes

    def _groups(self, concept: Concept) -> list[tuple[Fact, ...]]:
        """Return the facts of each edit, in the order of the edits."""
        own = facts_of(concept)
        if self.scope == "concept":
            return [first_facts(concept, self.items, self.concepts, self.further) if self.items else own]
        # All items of the concept, also those that the grid leaves out: every concept gets the same edit.
        whole = next((own for own in self.concepts if own.name == concept.name), concept)
        groups = facts_by_concept(whole, self.concepts)
        return [tuple(fact for group in groups for fact in group)] if self.scope == "batch" else groups

    def _edit_all(self, groups: list[tuple[Fact, ...]], backbone: Backbone, cache: AdapterCache) -> Adaptation:
        key: dict[str, Any] = {
            "editor": type(self.editor).__name__,
            "settings": asdict(self.editor),  # type: ignore[call-overload]
            "backbone": backbone.digest,
            "facts": [[[fact.question, fact.answer] for fact in group] for group in groups],
        }
        made = cache.get(key, lambda: edit_in_turn(self.editor, groups, backbone))
        return replace(made, details={name: value for name, value in made.details.items() if name != "key"})
