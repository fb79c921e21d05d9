"""Building a concept from its records: filling in what a release may omit, and refusing contradictions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from knowcusbench.benchmark.findings import Findings
from knowcusbench.benchmark.layout import KNOWLEDGE_FOLDER
from knowcusbench.benchmark.phrases import derive_phrase
from knowcusbench.benchmark.records import (
    ConceptRecord,
    KnowledgeRecord,
    PromptRecord,
    parse_records,
    read_template,
)
from knowcusbench.benchmark.types import RARE_TOKEN, Concept, KnowledgeItem, Prompt
from knowcusbench.storage.names import text_key


def make_concept(
    record: ConceptRecord,
    *,
    knowledge: Mapping[int, KnowledgeRecord],
    images: Sequence[Path],
    visual_checkpoint: Path | None,
    images_digest: str,
    where: str,
    findings: Findings,
) -> Concept:
    """Return a concept from its entry in `dataset.json` (found at `where`) and its files.

    Missing class nouns, answers and phrases are filled in, with a note. Contradictions are faults.
    """
    class_noun = record.class_noun or _infer_class_noun(record.name, knowledge, where, findings)
    concept = Concept(
        name=record.name,
        class_noun=class_noun,
        images=tuple(images),
        knowledge=(),
        prompts=_make_prompts(record, class_noun, where, findings),
        visual_checkpoint=visual_checkpoint,
        images_digest=images_digest,
    )
    where = f"{KNOWLEDGE_FOLDER}/{record.name}.json"
    items = _make_knowledge(knowledge, concept.anchor, where, findings)
    _refuse_contradictions(items, where, findings)
    return concept.with_knowledge(*items)


def _infer_class_noun(name: str, knowledge: Mapping[int, KnowledgeRecord], where: str, findings: Findings) -> str:
    """Return the class noun of the answers (`sks <class>`) if they agree on one, else the words of the name."""
    answers = {record.answer for record in knowledge.values() if record.answer}
    nouns = {answer.removeprefix(f"{RARE_TOKEN} ") for answer in answers if answer.startswith(f"{RARE_TOKEN} ")}
    if len(nouns) == 1:
        (noun,) = nouns
        findings.note(where, f"no class noun, {noun!r} taken from the answers")
    else:
        noun = re.sub(r"[\W\d_]+", " ", name).strip() or name
        findings.note(where, f"no class noun, {noun!r} taken from the name")
    return noun


def _make_prompts(record: ConceptRecord, class_noun: str, where: str, findings: Findings) -> tuple[Prompt, ...]:
    if not record.prompts:
        findings.fault(where, "no prompts")
    prompts: dict[str, Prompt] = {}
    rewritten = []
    for number, parsed in parse_records(PromptRecord, record.prompts, f"{where}: prompt", findings).items():
        try:
            template = read_template(parsed.template, class_noun)
        except ValueError as error:
            findings.fault(f"{where}: prompt {number}", str(error))
            continue
        if text_key(template) in prompts:
            findings.fault(f"{where}: prompt {number}", f"duplicate prompt {template!r}")
        else:
            prompts[text_key(template)] = Prompt(template, parsed.aspect)
            if template != parsed.template:
                rewritten.append(number)
    if rewritten:
        findings.note(where, f"another placeholder replaced by {{}} in prompts {_listed(rewritten)}")
    return tuple(prompts.values())


def _make_knowledge(
    records: Mapping[int, KnowledgeRecord], anchor: str, where: str, findings: Findings
) -> tuple[KnowledgeItem, ...]:
    items, derived = [], []
    for number, record in records.items():
        phrase = record.phrase or derive_phrase(record.question)
        if phrase is None:
            findings.note(
                f"{where}: item {number}",
                f"missing key 'knowledge' (or phrase, subject), and no phrase follows from {record.question!r}; a grid "
                "that takes this item leaves the concept out",
            )
        elif not record.phrase:
            derived.append(f"{number} {phrase!r}")
        items.append(
            KnowledgeItem(
                phrase=phrase or "",
                question=record.question,
                answer=record.answer or anchor,
                aspect=record.aspect,
                rephrasings=tuple(record.rephrasings),
            )
        )
    notes: dict[str, Sequence[object]] = {
        "no phrase, derived from the question": derived,
        f"no answer, the anchor {anchor!r} assumed": [n for n, r in records.items() if not r.answer],
        f"answer is not the anchor {anchor!r}": [n for n, r in records.items() if r.answer not in (None, anchor)],
    }
    for note, numbers in notes.items():
        if numbers:
            findings.note(where, f"{note}: items {_listed(numbers)}")
    return tuple(items)


def _refuse_contradictions(items: Sequence[KnowledgeItem], where: str, findings: Findings) -> None:
    """Record contradictions as faults.

    Two items with the same phrase would be the same sample, and one question can't have two answers.
    """
    phrases: set[str] = set()
    answers: dict[str, str] = {}
    for item in items:
        if item.phrase and text_key(item.phrase) in phrases:
            findings.fault(where, f"duplicate knowledge {item.phrase!r}")
        phrases.add(text_key(item.phrase))
        answer = answers.setdefault(_question_key(item.question), item.answer)
        if answer != item.answer:
            findings.fault(where, f"two answers to {item.question!r}: {answer!r} and {item.answer!r}")


def _question_key(question: str) -> str:
    """Return a question without differences that do not matter, such as its final mark and the blank before it."""
    return text_key(question).rstrip(" ?")


def _listed(numbers: Iterable[object]) -> str:
    return ", ".join(map(str, numbers))
