"""Side effects of a run's methods: one table, and confusion matrices of the concepts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from knowcusbench.adaptation.method import Role
from knowcusbench.analysis.leaderboard import in_order, kind_of, marked, mean_cell
from knowcusbench.analysis.reduction import Mean, reduce_groups, row_mean
from knowcusbench.analysis.types import Cell, Column, Counted, Leaderboard, Row, RowKind
from knowcusbench.effects.interference import confusion_matrix, retrieval_accuracy
from knowcusbench.effects.text import QuestionKind

READING = (
    "Means over a concept's texts or pictures, then over concepts. Question, Rephrased: probability and rank "
    "(geometric mean) of the wanted answer's first token, probability of the whole answer. Taught: all facts in the "
    "edit, also other concepts'. KL (nats) between the next-token distributions before and after, at unrelated "
    "questions, the other concepts' questions outside the edit, and prompts with the class noun. Unrel. P(answer): "
    "probability of the right answer to unrelated questions. Embeds: cosine of a prompt's embeddings before and after, "
    "mean over tokens and last token. Pictures: unrelated prompts' pictures before and after. Retrieval: share of "
    "reconstructions nearest to their own concept's references, with its own adaptation alone and with all concepts' "
    "adaptations together."
)

RANK = "first_rank"
"""The measure averaged as a logarithm: one rank of 100,000 would outweigh all others."""

RETRIEVAL = "retrieval"

SUMMARY = (
    "question_first_probability",
    "rephrasing_first_probability",
    "taught_first_probability",
    "unrelated_question_kl",
    "other_concept_kl",
    "unrelated_prompt_cosine",
    "unrelated_prompt_clip_i",
    "unrelated_prompt_rmse",
    "retrieval_separately",
    "retrieval_together",
)
"""Keys of the columns shown in the terminal and in ablations."""

SUMMARY_VALUES = ["method", "concept", "column", "value", "knowledge"]


@dataclass(frozen=True, kw_only=True)
class EffectsInput:
    """The measured effects of a run's methods, all by one protocol.

    Attributes:
        run: name of the run.
        methods: label -> role, as in `ReportInput`.
        concepts: names of the concepts in the grid.
        measures: one row per method, concept, probe, text and measure; columns method, concept, probe, measure, value,
            knowledge (index of the concept's item that the text is about; NaN for none). Only of completely measured
            concepts.
        retrieved: one row per picture; columns method, applied ("separately", "together"), concept, knowledge, nearest.
        pictures: expected number of pictures for each way of applying adaptations.
        references: columns concept, value: the share of a concept's reference images that are nearest to it.
        protocol: digest of the measurement's protocol.
        remarks: notes for below the table, one sentence each.
    """

    run: str
    methods: Mapping[str, Role]
    concepts: tuple[str, ...]
    measures: pd.DataFrame
    retrieved: pd.DataFrame
    pictures: int
    references: pd.DataFrame
    protocol: str
    remarks: tuple[str, ...] = ()


def _column(probe: str, measure: str, group: str, name: str, decimals: int, better: bool | None) -> Column:
    return Column(
        metric=f"{probe}_{measure}", task=None, group=group, name=name, decimals=decimals, higher_is_better=better
    )


COLUMNS: Mapping[tuple[str, str], Column] = {
    (probe, measure): _column(probe, measure, group, name, decimals, better)
    for probe, measure, group, name, decimals, better in (
        (QuestionKind.QUESTION, "first_probability", "Question", "P(first)", 3, True),
        (QuestionKind.QUESTION, RANK, "Question", "rank", 1, False),
        (QuestionKind.QUESTION, "answer_probability", "Question", "P(answer)", 3, True),
        (QuestionKind.REPHRASING, "first_probability", "Rephrased", "P(first)", 3, True),
        (QuestionKind.REPHRASING, RANK, "Rephrased", "rank", 1, False),
        (QuestionKind.REPHRASING, "answer_probability", "Rephrased", "P(answer)", 3, True),
        (QuestionKind.TAUGHT, "first_probability", "Taught", "P(first)", 3, True),
        (QuestionKind.UNRELATED_QUESTION, "kl", "KL", "unrelated", 3, False),
        (QuestionKind.OTHER_CONCEPT, "kl", "KL", "concepts", 3, False),
        (QuestionKind.CLASS_PROMPT, "kl", "KL", "prompts", 3, False),
        (QuestionKind.UNRELATED_QUESTION, "answer_probability", "Unrel.", "P(answer)", 3, True),
        (QuestionKind.PHRASE, "cosine", "Knowl. embeds", "all", 3, None),
        (QuestionKind.PHRASE, "last_cosine", "Knowl. embeds", "last", 3, None),
        (QuestionKind.UNRELATED_PROMPT, "cosine", "Unrel. embeds", "all", 3, True),
        (QuestionKind.UNRELATED_PROMPT, "last_cosine", "Unrel. embeds", "last", 3, True),
        (QuestionKind.UNRELATED_PROMPT, "clip_i", "Unrel. pictures", "CLIP-I", 3, True),
        (QuestionKind.UNRELATED_PROMPT, "patch_cosine", "Unrel. pictures", "patches", 3, True),
        (QuestionKind.UNRELATED_PROMPT, "rmse", "Unrel. pictures", "RMSE", 3, False),
        (RETRIEVAL, "separately", "Retrieval", "alone", 3, True),
        (RETRIEVAL, "together", "Retrieval", "together", 3, True),
    )
}

SUMMARY_COLUMNS = tuple(column for column in COLUMNS.values() if column.key in SUMMARY)


def build_effects(inputs: EffectsInput) -> Leaderboard:
    """Build the table of effects: controls and methods in the leaderboard's order, then real images."""
    means, expected = _means(inputs.measures), _expected(inputs)
    matrices = confusions(inputs)

    def cell(label: str, probe: str, measure: str) -> Cell:
        if probe != RETRIEVAL:
            return mean_cell(means.get((label, probe, measure)), expected(label, probe, measure), Counted.CONCEPTS)
        if measure not in matrices.get(label, {}):
            return Cell()
        matrix = matrices[label][measure]
        found = Mean(retrieval_accuracy(matrix), int(matrix.to_numpy().sum()))
        return mean_cell(found, inputs.pictures, Counted.SAMPLES)

    own = [
        Row(label=label, kind=kind_of(role), cells=tuple(cell(label, *key) for key in COLUMNS))
        for label, role in in_order(inputs.methods)
    ]
    columns = tuple(COLUMNS.values())
    return Leaderboard(
        title="Effects",
        run=inputs.run,
        reading=READING,
        columns=columns,
        rows=marked(columns, [*own, _reference_row(inputs)]),
        protocols={"effects": inputs.protocol},
        remarks=(*_chance(inputs), *inputs.remarks),
    )


def summary(board: Leaderboard) -> Leaderboard:
    """Return the columns that fit into a terminal."""
    chosen = [place for place, column in enumerate(board.columns) if column in SUMMARY_COLUMNS]
    return replace(
        board,
        columns=tuple(board.columns[place] for place in chosen),
        rows=tuple(replace(row, cells=tuple(row.cells[place] for place in chosen)) for row in board.rows),
    )


def summary_values(inputs: EffectsInput) -> pd.DataFrame:
    """Return the values behind `SUMMARY_COLUMNS`, one row per text or picture: columns `SUMMARY_VALUES`."""
    keys = {place: column.key for place, column in COLUMNS.items() if column in SUMMARY_COLUMNS}
    found = inputs.retrieved["concept"] == inputs.retrieved["nearest"]
    retrieved = inputs.retrieved.assign(probe=RETRIEVAL, measure=inputs.retrieved["applied"], value=found.astype(float))
    rows = pd.concat([inputs.measures, retrieved], ignore_index=True)
    rows["column"] = [keys.get(place) for place in zip(rows["probe"], rows["measure"], strict=True)]
    return rows.dropna(subset="column")[SUMMARY_VALUES]


def confusions(inputs: EffectsInput) -> dict[str, dict[str, pd.DataFrame]]:
    """Return the confusion matrices by method and by the way of applying adaptations."""
    matrices: dict[str, dict[str, pd.DataFrame]] = {}
    for (label, applied), rows in inputs.retrieved.groupby(["method", "applied"], sort=True):
        matrix = confusion_matrix(list(rows["concept"]), list(rows["nearest"]), inputs.concepts)
        matrices.setdefault(str(label), {})[str(applied)] = matrix
    return matrices


def _means(measures: pd.DataFrame) -> dict[tuple[str, str, str], Mean]:
    """Return the mean over concepts of each concept's mean, by (method, probe, measure). `n` counts concepts."""
    is_rank = measures["measure"] == RANK
    values = measures["value"].astype(float)
    logged = measures.assign(value=values.where(~is_rank, np.log(values.where(is_rank, 1.0))))
    keys = ["method", "probe", "measure"]
    means = reduce_groups(reduce_groups(logged, [*keys, "concept"], "value"), keys, "value")
    found = {
        (str(row.method), str(row.probe), str(row.measure)): row_mean(row) for row in means.itertuples(index=False)
    }
    return {key: mean._replace(value=math.exp(mean.value)) if key[2] == RANK else mean for key, mean in found.items()}


def _expected(inputs: EffectsInput) -> Callable[[str, str, str], int]:
    """Return a function that counts the concepts expected to have a measure.

    A concept that was measured without such a probe is not expected: a benchmark may lack rephrasings, and an edit of
    all concepts' knowledge leaves no questions of others.
    """
    measured = inputs.measures.groupby("method")["concept"].agg(set).to_dict()
    having = inputs.measures.groupby(["method", "probe", "measure"])["concept"].agg(set).to_dict()

    def expected(label: str, probe: str, measure: str) -> int:
        return len(inputs.concepts) - len(measured.get(label, set()) - having.get((label, probe, measure), set()))

    return expected


def _reference_row(inputs: EffectsInput) -> Row:
    values = inputs.references["value"].dropna()
    mean = Mean(float(values.mean()), len(values)) if len(values) else None
    known = mean_cell(mean, len(inputs.concepts), Counted.CONCEPTS) if len(inputs.references) else Cell()
    cells = tuple(known if probe == RETRIEVAL else Cell() for probe, _ in COLUMNS)
    return Row(label="real images", kind=RowKind.CEILING, cells=cells)


def _chance(inputs: EffectsInput) -> tuple[str, ...]:
    if inputs.retrieved.empty:
        return ()
    return (f"Retrieval by chance: {1 / len(inputs.concepts):.3f} ({len(inputs.concepts)} concepts).",)
