"""Checks of the plug-in contracts, which every method, every metric and every family of backbones must pass.

from knowcusbench.testing import check_method, check_metric

def test_my_method(tmp_path):
    check_method(*embedded_case("my_method", "recipe.dreambooth.steps=2"), tmp_path)

def test_my_metric(tmp_path):
    check_metric(MyMetric(...), items, tmp_path)

def test_my_family(tmp_path):
    check_backbone(MySpec(source="tiny/pipeline", dtype="float32", height=64, width=64, steps=3), tmp_path)
"""

from knowcusbench.testing.backbones import check_backbone
from knowcusbench.testing.embedded import embedded_case
from knowcusbench.testing.methods import check_method
from knowcusbench.testing.metrics import check_metric

__all__ = ["check_backbone", "check_method", "check_metric", "embedded_case"]
