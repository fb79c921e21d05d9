"""Reading a benchmark in the layout of the KnowCusBench release (see `layout`).

Loading and checking share one pass, which collects all faults. Images are hashed here but not decoded, so that loading
stays fast; `knowcusbench check` decodes them as well.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from knowcusbench.benchmark.concepts import make_concept
from knowcusbench.benchmark.digests import benchmark_digest, images_digest
from knowcusbench.benchmark.findings import Findings
from knowcusbench.benchmark.layout import (
    CHECKPOINT_FOLDER,
    CONVERT,
    DATASET_FILE,
    IMAGE_FOLDER,
    IMAGE_SUFFIXES,
    KNOWLEDGE_FOLDER,
    UNREAD_SUFFIXES,
)
from knowcusbench.benchmark.records import (
    ConceptRecord,
    KnowledgeRecord,
    concept_values,
    knowledge_values,
    parse_records,
)
from knowcusbench.benchmark.tree import ReleaseTree
from knowcusbench.benchmark.types import UNSPECIFIED, Benchmark, Concept, KnowledgeAspect, PromptAspect
from knowcusbench.errors import BenchmarkError
from knowcusbench.storage.names import by_name, name_fault, text_key

USUAL_IMAGE_COUNTS = range(4, 7)
"""Reference images per concept in the paper, 4 to 6; another number gives a note."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The result of one pass over a release.

    Attributes:
        benchmark: the benchmark as far as it could be read; complete only if there are no faults.
        images: all existing reference images, also of concepts that could not be read.
        faults: faults that must be corrected, one line each.
    """

    benchmark: Benchmark
    images: tuple[Path, ...]
    faults: tuple[str, ...]


def load_benchmark(root: Path) -> Benchmark:
    """Read a benchmark directory.

    Raises BenchmarkError if it has faults: the message shows the first one, `faults` holds them all.
    """
    return sound(read_release(root), root)


def sound(reading: Reading, source: Path) -> Benchmark:
    """Return the benchmark of a reading without faults; otherwise raise BenchmarkError, naming `source`."""
    if reading.faults:
        first, *others = reading.faults
        more = f" (and {len(others)} more)" if others else ""
        raise BenchmarkError(
            f"{source}: {first}{more}; run `knowcusbench check {source}` for all faults", reading.faults
        )
    return reading.benchmark


def read_release(root: Path) -> Reading:
    """Read as much of a benchmark directory as possible, and collect all faults."""
    root = root.absolute()
    if not root.is_dir():
        return Reading(benchmark=Benchmark(root, (), ""), images=(), faults=("no such directory",))
    findings = Findings()
    tree = ReleaseTree(root, findings)
    records, complete = _read_concepts(tree)
    images = {
        name: _images(tree, folder) for name, folder in by_name(tree.folders(root / IMAGE_FOLDER), records).items()
    }
    knowledge = by_name(_read_knowledge(tree), records)
    checkpoints = by_name(_checkpoints(tree), records)
    _refuse_missing(records, images, knowledge, findings)
    if complete:
        _refuse_strays(records, images, knowledge, checkpoints, findings)
    concepts = tuple(
        make_concept(
            record,
            knowledge=knowledge.get(name, {}),
            images=images.get(name, ()),
            visual_checkpoint=checkpoints.get(name),
            images_digest=_hash_images(tree, images.get(name, ())),
            where=f"{DATASET_FILE}: {name}",
            findings=findings,
        )
        for name, record in records.items()
    )
    _note_oddities(concepts, findings)
    return Reading(
        benchmark=Benchmark(root, concepts, benchmark_digest(concepts), tuple(findings.notes)),
        images=tuple(path for paths in images.values() for path in paths),
        faults=tuple(findings.faults),
    )


def _images(tree: ReleaseTree, folder: Path) -> tuple[Path, ...]:
    """Return the reference images of a folder, in file-name order."""
    entries = tree.entries(folder)
    images = tuple(path for path in entries if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES)
    for path in sorted(set(entries) - set(images)):
        if path.suffix.lower() in UNREAD_SUFFIXES:
            tree.findings.fault(tree.where(path), CONVERT)
        else:
            tree.findings.note(tree.where(path), "not an image, ignored")
    if not images:
        tree.findings.fault(tree.where(folder), "no images")
    elif len(images) not in USUAL_IMAGE_COUNTS:
        usual = f"{USUAL_IMAGE_COUNTS.start} to {USUAL_IMAGE_COUNTS[-1]}"
        tree.findings.note(tree.where(folder), f"{len(images)} images, {usual} are usual")
    return images


def _hash_images(tree: ReleaseTree, images: Sequence[Path]) -> str:
    contents = {path: data for path in images if (data := tree.read_bytes(path)) is not None}
    first: dict[bytes, Path] = {}
    for path, data in contents.items():
        if (other := first.setdefault(data, path)) != path:
            tree.findings.note(tree.where(path), f"the same as {other.name}, which so counts twice")
    return images_digest(contents.values())


def _read_concepts(tree: ReleaseTree) -> tuple[dict[str, ConceptRecord], bool]:
    """Return the entries of `dataset.json` with usable and distinct names, by name; and whether these are all."""
    value = tree.read_json(tree.root / DATASET_FILE)
    values = [] if value is None else concept_values(value, DATASET_FILE, tree.findings)
    parsed = parse_records(ConceptRecord, values, f"{DATASET_FILE}: concept", tree.findings)
    concepts: dict[str, ConceptRecord] = {}
    known: set[str] = set()
    for number, record in parsed.items():
        where = f"{DATASET_FILE}: concept {number}"
        if reason := name_fault(record.name):
            tree.findings.fault(where, f"{record.name!r} can't be a folder's name: it {reason}")
        elif text_key(record.name) in known:
            tree.findings.fault(where, f"duplicate concept {record.name!r}")
        else:
            concepts[record.name] = record
            known.add(text_key(record.name))
    return concepts, 0 < len(parsed) == len(values)


def _read_knowledge(tree: ReleaseTree) -> dict[str, dict[int, KnowledgeRecord]]:
    """Return the valid items of every knowledge file, by concept."""
    knowledge = {}
    for path in tree.entries(tree.root / KNOWLEDGE_FOLDER):
        where = tree.where(path)
        if path.suffix != ".json" or path.is_dir():
            tree.findings.note(where, "not a JSON file, ignored")
            continue
        value = tree.read_json(path)
        values = [] if value is None else knowledge_values(value, where, tree.findings)
        knowledge[path.stem] = parse_records(KnowledgeRecord, values, f"{where}: item", tree.findings)
    return knowledge


def _checkpoints(tree: ReleaseTree) -> dict[str, Path]:
    """Return the non-empty folders of stage-1 LoRAs, by concept."""
    folders = tree.folders(tree.root / CHECKPOINT_FOLDER)
    return {name: folder for name, folder in folders.items() if tree.files_below(folder)}


def _refuse_missing(
    concepts: Iterable[str], images: Container[str], knowledge: Container[str], findings: Findings
) -> None:
    """Record a fault for every concept without a folder of images or a knowledge file."""
    for name in concepts:
        if name not in images:
            findings.fault(f"{IMAGE_FOLDER}/{name}", "missing folder of a concept")
        if name not in knowledge:
            findings.fault(f"{KNOWLEDGE_FOLDER}/{name}.json", "missing file of a concept")


def _refuse_strays(
    concepts: Container[str],
    images: Iterable[str],
    knowledge: Iterable[str],
    checkpoints: Iterable[str],
    findings: Findings,
) -> None:
    """Record a fault for images and knowledge without an entry in `dataset.json`; a stray checkpoint does no harm."""
    reason = f"no such concept in {DATASET_FILE}"
    for name in images:
        if name not in concepts:
            findings.fault(f"{IMAGE_FOLDER}/{name}", reason)
    for name in knowledge:
        if name not in concepts:
            findings.fault(f"{KNOWLEDGE_FOLDER}/{name}.json", reason)
    for name in checkpoints:
        if name not in concepts:
            findings.note(f"{CHECKPOINT_FOLDER}/{name}", f"{reason}, ignored")


def _note_oddities(concepts: Sequence[Concept], findings: Findings) -> None:
    """Note valid but unusual contents: aspects outside the paper's, and prompts or questions on which concepts
    disagree."""
    items = [item for concept in concepts for item in concept.knowledge]
    prompts = [prompt for concept in concepts for prompt in concept.prompts]
    for kind, found, known in (
        ("knowledge", {item.aspect for item in items}, set(KnowledgeAspect)),
        ("prompt", {prompt.aspect for prompt in prompts}, set(PromptAspect)),
    ):
        for aspect in sorted(found - known - {UNSPECIFIED}):
            findings.note("aspects", f"{kind} aspect {aspect!r} is not one of the paper's")
    for template, aspects in _grouped((prompt.template, prompt.aspect) for prompt in prompts).items():
        if len(aspects) > 1:
            findings.note("prompts", f"{template!r} has different aspects: {', '.join(sorted(aspects))}")
    for question, answers in _grouped((item.question, item.answer) for item in items).items():
        if len(answers) > 1:
            findings.note("knowledge", f"{question!r} has different answers in different concepts")


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return the values by key; keys of the same text are grouped under the first spelling."""
    spelled: dict[str, str] = {}
    groups: dict[str, set[str]] = {}
    for key, value in pairs:
        groups.setdefault(spelled.setdefault(text_key(key), key), set()).add(value)
    return groups
