"""The results of a transfer probe as Markdown."""

import math

import pandas as pd

from knowcusbench.analysis.columns import MISSING
from knowcusbench.effects.probe import ProbeResult, TransferProbe
from knowcusbench.report.tables.markdown import escape_markdown, table_line

READING = (
    "first_probability and first_rank (1 is the likeliest): the answer's first token. answer_probability: all its "
    "tokens. kl: divergence (nats) of the next token's distribution after the edit from the one before. cosine: mean "
    "cosine of the prompt's token embeddings before and after; last_cosine: the last token.",
    "clip_i: cosine of the pictures before and after. patch_cosine: mean cosine of their patches. rmse: their distance "
    "in pixel values of 0 to 1. clip_t_new, clip_t_old: cosine of a picture with the words of the new and the old "
    "answer. Means over seeds.",
)


def render_probe(probe: TransferProbe, result: ProbeResult) -> str:
    """Return the edit in a sentence, a table of text measures, and a table of picture measures as means over seeds."""
    sentence = (
        f"“{probe.question}”: “{probe.old_answer}” edited to “{probe.answer}”; prompt “{probe.phrase}”, "
        f"{len(probe.seeds)} seeds."
    )
    pictures = result.pictures.groupby("measure", sort=False)[["before", "after"]].mean().reset_index()
    lines = [
        "# Transfer probe",
        "",
        escape_markdown(sentence),
        "",
        "![before and after](before-after.png)",
        "",
        *_table(result.text, ["probe", "text", "answer", "measure"]),
        "",
        *_table(pictures, ["measure"]),
        "",
        *(f"- {escape_markdown(text)}" for text in READING),
        "",
    ]
    return "\n".join(lines)


def _table(rows: pd.DataFrame, names: list[str]) -> list[str]:
    heads = [*names, "before", "after"]
    return [
        table_line(heads),
        table_line([*[":--"] * len(names), "--:", "--:"]),
        *(
            table_line(
                [
                    *(escape_markdown(str(row[name])) for name in names),
                    *(_number(str(row["measure"]), float(row[side])) for side in ("before", "after")),
                ]
            )
            for row in rows.to_dict("records")
        ),
    ]


def _number(measure: str, value: float) -> str:
    if math.isnan(value):
        return MISSING
    return f"{value:.0f}" if measure == "first_rank" else f"{value:.4g}"
