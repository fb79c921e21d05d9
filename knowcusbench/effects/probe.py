"""The transfer probe: does a fact edited in the text encoder change the image of its phrase?

The paper's example is "Beethoven's favorite instrument", a piano made a guitar (arXiv 2603.12743).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import Backbone, QuestionForm
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.base import Editor
from knowcusbench.effects.pictures import picture_measures
from knowcusbench.effects.text import (
    QuestionKind,
    TextProbes,
    TextReading,
    read_base_text,
    read_text,
    text_effects,
)
from knowcusbench.encoders.clip import ClipEncoder, ClipSpec
from knowcusbench.errors import ConfigError
from knowcusbench.storage.files import atomic_path

TEXT_COLUMNS = ["answer", "probe", "text", "measure", "before", "after"]
PICTURE_COLUMNS = ["seed", "measure", "before", "after"]


@dataclass(frozen=True, kw_only=True)
class TransferProbe:
    """A fact, its new answer, and the questions and images compared before and after the edit.

    Attributes:
        phrase: prompt of the images. It names the thing that the question asks for.
        question: the question whose answer is edited.
        rephrasings: the same question in other words, which are not edited.
        answer, old_answer: the new answer and the old one.
        looks, old_looks: the two answers' looks in words that CLIP understands; None for no comparison with words.
        unrelated: facts unrelated to the edited one.
        seeds: seeds of the images' noise.
        question_form: how questions are put to the text encoder.
        encoder: compares images with each other and with words.
    """

    phrase: str
    question: str
    answer: str
    old_answer: str
    encoder: ClipSpec
    rephrasings: tuple[str, ...] = ()
    looks: str | None = None
    old_looks: str | None = None
    unrelated: tuple[Fact, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    question_form: QuestionForm = QuestionForm.chat

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"recipe.probe.seeds: expected different seeds, found {list(self.seeds)}")
        if self.answer == self.old_answer:
            raise ConfigError(f"recipe.probe.answer: {self.answer!r} is the old answer too; name another")

    def texts(self, answer: str) -> TextProbes:
        """Return the questions and prompts for the text encoder, with one of the two answers."""
        return TextProbes(
            facts={
                QuestionKind.QUESTION: (Fact(self.question, answer),),
                QuestionKind.REPHRASING: tuple(Fact(text, answer) for text in self.rephrasings),
                QuestionKind.UNRELATED_QUESTION: self.unrelated if answer == self.answer else (),
            },
            prompts={QuestionKind.PHRASE: (self.phrase,) if answer == self.answer else ()},
        )


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe.

    Attributes:
        edit: the edit, which is not stored.
        text: columns `TEXT_COLUMNS`, measures of `text_effects`. `answer` is the answer whose probability is measured,
            empty for the phrase; `before` is NaN for a measure that itself compares before and after.
        pictures: columns `PICTURE_COLUMNS`. `picture_measures` compare the images before and after; `clip_t_new` and
            `clip_t_old` (cosines) compare each image with the words of the two answers.
        files: image files before and after, by seed.
    """

    edit: Adaptation
    text: pd.DataFrame
    pictures: pd.DataFrame
    files: dict[int, tuple[Path, Path]]


def run_probe(probe: TransferProbe, editor: Editor, backbone: Backbone, directory: Path) -> ProbeResult:
    """Edit the fact; ask and draw before and after, with the same noise.

    Writes `before-<seed>.png` and `after-<seed>.png` to `directory`. The backbone is left unchanged.
    """
    texts = {answer: probe.texts(answer) for answer in (probe.answer, probe.old_answer)}
    base = {answer: read_base_text(backbone, asked, probe.question_form) for answer, asked in texts.items()}
    files = {seed: (directory / f"before-{seed}.png", directory / f"after-{seed}.png") for seed in probe.seeds}
    _draw(backbone, probe, [before for before, _ in files.values()])
    edit = editor.edit((Fact(probe.question, probe.answer),), backbone)
    with backbone.adapted(edit):
        adapted = {answer: read_text(backbone, asked, probe.question_form) for answer, asked in texts.items()}
        _draw(backbone, probe, [after for _, after in files.values()])
    text = [_text_rows(asked, base[answer], adapted[answer]) for answer, asked in texts.items()]
    return ProbeResult(
        edit=edit,
        text=pd.concat(text, ignore_index=True),
        pictures=compare_pictures(probe.encoder.load(), files, new=probe.looks, old=probe.old_looks),
        files=files,
    )


def _text_rows(asked: TextProbes, before: TextReading, after: TextReading) -> pd.DataFrame:
    answers = {fact.question: fact.answer for facts in asked.facts.values() for fact in facts}
    table = text_effects(asked, before, after).rename(columns={"base": "before", "value": "after"})
    return table.assign(answer=[answers.get(text, "") for text in table["text"]])[TEXT_COLUMNS]


def _draw(backbone: Backbone, probe: TransferProbe, paths: Sequence[Path]) -> None:
    pictures = backbone.sample(backbone.encode(probe.phrase), probe.seeds)
    for path, picture in zip(paths, pictures, strict=True):
        with atomic_path(path) as temporary:
            picture.save(temporary, format="PNG")


def compare_pictures(
    encoder: ClipEncoder, files: dict[int, tuple[Path, Path]], *, new: str | None, old: str | None
) -> pd.DataFrame:
    """Return the measures of `ProbeResult.pictures` for pairs of files by seed.

    Comparisons with words are made only if words are given.
    """
    embeddings = encoder.embed_files([path for pair in files.values() for path in pair])
    words = {f"clip_t_{name}": text for name, text in (("new", new), ("old", old)) if text}
    texts = encoder.embed_texts(list(words.values())) if words else {}
    rows: list[tuple[int, str, float, float]] = []
    for seed, (before, after) in files.items():
        compared = picture_measures(encoder, before, after)
        rows += [(seed, measure, float("nan"), value) for measure, value in compared.items()]
        for measure, text in words.items():
            cosines = [float(embeddings[path] @ texts[text].embedding) for path in (before, after)]
            rows.append((seed, measure, cosines[0], cosines[1]))
    return pd.DataFrame(rows, columns=PICTURE_COLUMNS)
