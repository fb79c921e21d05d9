"""The scores of all samples as one array, so that any picture's are at hand."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Scores = NDArray[np.float32]


def score_cube(plan: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str], scores: pd.DataFrame) -> Scores:
    """Scores (samples, methods, metrics) in the order of `plan`, `methods` and `metrics`; NaN where there is none.

    `scores` has the columns sample_id, method, metric and value; rows of other samples, methods or metrics are passed
    over.
    """
    score_array = np.full((len(plan), len(methods), len(metrics)), np.nan, dtype=np.float32)
    for number, metric in enumerate(metrics):
        own = scores[scores["metric"] == metric]
        samples, rows = _codes(own["sample_id"], plan["id"]), _codes(own["method"], methods)
        known = (samples >= 0) & (rows >= 0)
        score_array[samples[known], rows[known], number] = own["value"].to_numpy(np.float32)[known]
    return score_array


def _codes(column: "pd.Series[str]", names: "Sequence[str] | pd.Series[str]") -> NDArray[np.intp]:
    """The place of each value in `names`; -1 for others."""
    categories = column.astype("category").cat
    place = pd.Index(names).get_indexer(categories.categories)
    return np.asarray(np.append(place, -1)[categories.codes.to_numpy()], dtype=np.intp)
