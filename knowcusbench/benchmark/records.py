"""The JSON records of the release, and their accepted keys.

The keys of the published files are not documented, so each field is read under any of several names. The first one
listed is ours, and the one we write. Unknown keys are noted, not refused.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from knowcusbench.benchmark.findings import Findings
from knowcusbench.benchmark.types import UNSPECIFIED

PLACEHOLDERS = ("{}", "{concept}", "<concept>", "[V]")
"""Accepted placeholders of the concept in a prompt. The first is ours; the others are rewritten to it."""

_LITERAL = re.compile(r"\{\{\s*\}\}")
_OTHER = re.compile(r"\{[^{}]*\}|<[^<>\s]*(?:concept|subject|token|class|name)[^<>\s]*>|\[(?:[VSvs]\*?|\*)\]")
"""Placeholders of other authors, which do not occur in plain text."""


def read_template(text: str, class_noun: str = "", *, required: bool = True) -> str:
    """Return a prompt with `{}` in place of its placeholder: one of `PLACEHOLDERS`, or "[V]" with the class noun.

    Args:
        text: the prompt as written.
        class_noun: the concept's class noun, if known.
        required: False for a prompt that may name the concept in words of its own.

    Raises ValueError for a prompt with two placeholders, with none if one is `required`, or with one of another form.

    >>> read_template("a photo of [V] dog on the beach", "dog"), read_template("<concept> on the beach")
    ('a photo of {} on the beach', '{} on the beach')
    """
    template = text.replace(f"[V] {class_noun}", "{}") if class_noun else text
    for placeholder in PLACEHOLDERS:
        template = template.replace(placeholder, "{}")
    count = template.count("{}")
    other = _LITERAL.search(template) or (_OTHER.search(template) if count == 0 else None)
    if other or count > 1 or (required and count == 0):
        found = repr(other[0]) if other else count or "none"
        raise ValueError(f"expected one {{}} where the concept is named, found {found} in {text!r}")
    return template


KNOWLEDGE_LIST_KEYS = ("knowledge", "items", "data")
"""A knowledge file is a list of items, or an object with the list under one of these keys."""


CONCEPT_LIST_KEYS = ("concepts", "items", "data")
"""`dataset.json` may be an object with the list of concepts under one of these keys."""

QUESTION_KEYS = ("question", "prompt", "src", "query")


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _aspect(value: str) -> str:
    """Return an aspect in one spelling: "Physical Attribute" and "physical-attribute" are both `physical_attribute`."""
    return re.sub(r"[\W_]+", "_", value.lower()).strip("_") or UNSPECIFIED


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Aspect = Annotated[str, AfterValidator(_aspect)]


class Record(BaseModel):
    """A JSON object of the release. Types are strict: a number is not a text."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class KnowledgeRecord(Record):
    """One item of `knowledge_data/<concept>.json`."""

    phrase: Text | None = Field(None, validation_alias=AliasChoices("knowledge", "phrase", "subject"))
    question: Text = Field(validation_alias=AliasChoices(*QUESTION_KEYS))
    answer: Text | None = Field(None, validation_alias=AliasChoices("answer", "target_new", "ans", "target"))
    aspect: Aspect = Field(UNSPECIFIED, validation_alias=AliasChoices("aspect", "type", "category"))
    rephrasings: Annotated[list[Text], BeforeValidator(_one_or_many)] = Field(
        [], validation_alias=AliasChoices("rephrase", "rephrase_prompt", "paraphrase", "paraphrases")
    )


class PromptRecord(Record):
    """One prompt of a concept: an object, or the bare template."""

    template: Text = Field(validation_alias=AliasChoices("text", "template", "prompt"))
    aspect: Aspect = Field(UNSPECIFIED, validation_alias=AliasChoices("aspect", "type", "category"))

    @model_validator(mode="before")
    @classmethod
    def _from_bare_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


class ConceptRecord(Record):
    """One concept of `concept_image/dataset.json`."""

    name: Text = Field(validation_alias=AliasChoices("concept", "name", "concept_name", "id"))
    class_noun: Text | None = Field(
        None, validation_alias=AliasChoices("class", "class_noun", "category", "super_class")
    )
    prompts: list[Any] = Field(validation_alias=AliasChoices("prompts", "generation_prompts", "prompt"))


AnyRecord = TypeVar("AnyRecord", bound=Record)


def parse_record(model: type[AnyRecord], value: Any, where: str, findings: Findings) -> AnyRecord | None:
    """Return a JSON value as a record; None, with a fault for each of its errors, if it is not valid."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            findings.fault(where, _explain(model, details))
        return None


def parse_records(model: type[AnyRecord], values: list[Any], where: str, findings: Findings) -> dict[int, AnyRecord]:
    """Return the valid records of a list, by position from 1; each error in the others is a fault."""
    records = {}
    for number, value in enumerate(values, 1):
        record = parse_record(model, value, f"{where} {number}", findings)
        if record is not None:
            records[number] = record
    unused = sorted({key for record in records.values() for key in record.model_extra or {}})
    if unused:
        findings.note(where, f"keys not used: {', '.join(map(repr, unused))}")
    return records


def concept_values(value: Any, where: str, findings: Findings) -> list[Any]:
    """Return the concept objects of `dataset.json`.

    The file holds a list of them, or an object keyed by concept. Its values are the objects without a name, or the
    lists of prompts alone. Either may be in an envelope (`CONCEPT_LIST_KEYS`).
    """
    if isinstance(value, dict) and len(value) == 1:
        key, content = next(iter(value.items()))
        # An envelope. A concept of that name would hold prompts: texts, or objects with a text.
        if key in CONCEPT_LIST_KEYS and isinstance(content, list) and all(_is_concept(entry) for entry in content):
            value = content
    if isinstance(value, list | dict) and not value:
        findings.fault(where, "no concepts")
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return [_named(name, content) for name, content in value.items()]
    findings.fault(where, f"expected a list of concepts or an object keyed by concept, found {_shown(value)}")
    return []


def _is_concept(entry: Any) -> bool:
    return isinstance(entry, dict) and not {"prompts", "generation_prompts"}.isdisjoint(entry)


def _named(name: str, content: Any) -> Any:
    if isinstance(content, dict):
        return {**content, "concept": name}
    return {"concept": name, "prompts": content}


def knowledge_values(value: Any, where: str, findings: Findings) -> list[Any]:
    """Return the item objects of a knowledge file."""
    if isinstance(value, dict) and any(key in value for key in QUESTION_KEYS):
        value = [value]
    elif isinstance(value, dict):
        value = next((value[key] for key in KNOWLEDGE_LIST_KEYS if key in value), value)
    if not isinstance(value, list):
        findings.fault(where, f"expected a list of knowledge items, found {_shown(value)}")
        return []
    if not value:
        findings.fault(where, "no knowledge items")
    return value


def _explain(model: type[Record], details: ErrorDetails) -> str:
    place = ".".join(map(str, details["loc"]))
    if details["type"] == "missing":
        first, *others = _names(model, str(details["loc"][0]))
        return f"missing key {first!r}" + (f" (or {', '.join(others)})" if others else "")
    if details["type"] == "model_type":
        return f"expected an object, found {_shown(details['input'])}"
    message = details["msg"][0].lower() + details["msg"][1:]
    return f"key {place!r}: {message}, found {_shown(details['input'])}"


def _names(model: type[Record], name: str) -> Iterator[str]:
    for field in model.model_fields.values():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices) and name in alias.choices:
            yield from map(str, alias.choices)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
