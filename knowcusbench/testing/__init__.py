"""Checks of the plug-in contracts, which every method and every metric must pass.

from knowcusbench.testing import check_method, check_metric

def test_my_method(tmp_path):
    check_method(*embedded_case("my_method", "recipe.dreambooth.steps=2"), tmp_path)

def test_my_metric(tmp_path):
    check_metric(MyMetric(...), items, tmp_path)
"""

from knowcusbench.testing.embedded import embedded_case
from knowcusbench.testing.methods import check_method
from knowcusbench.testing.metrics import check_metric

__all__ = ["check_method", "check_metric", "embedded_case"]
