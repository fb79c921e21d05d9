"""The scores of all samples as one array, for quick access to any picture's scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Scores = NDArray[np.float32]


def score_array(plan: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str], scores: pd.DataFrame) -> Scores:
    """Return scores (samples, methods, metrics) in the order of `plan`, `methods` and `metrics`; NaN for a missing one.

    `scores` has the columns sample_id, method, metric and value. Rows of other samples, methods or metrics are ignored.
    """
    array = np.full((len(plan), len(methods), len(metrics)), np.nan, dtype=np.float32)
    for number, metric in enumerate(metrics):
        own = scores[scores["metric"] == metric]
        samples, rows = _codes(own["sample_id"], plan["id"]), _codes(own["method"], methods)
        known = (samples >= 0) & (rows >= 0)
        array[samples[known], rows[known], number] = own["value"].to_numpy(np.float32)[known]
    return array


def _codes(column: "pd.Series[str]", names: "Sequence[str] | pd.Series[str]") -> NDArray[np.intp]:
    """Return the index in `names` of each value; -1 for others."""
    categories = column.astype("category").cat
    index = pd.Index(names).get_indexer(categories.categories)
    return np.asarray(np.append(index, -1)[categories.codes.to_numpy()], dtype=np.intp)
