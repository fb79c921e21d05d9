"""Device memory needed for scoring: weights of all encoders, and the activations of a batch."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from knowcusbench.metrics.base import Metric
from knowcusbench.storage.hub_cache import WEIGHTS, cached

MIB = 2**20

PUBLISHED = {
    "timm/vit_base_patch32_clip_224.openai": (151_283_242, 1.8),
    "openai/clip-vit-base-patch32": (151_277_440, 2.3),
    "yuvalkirstain/PickScore_v1": (986_109_775, 20.1),
    "xswu/HPSv2": (986_115_370, 15.1),
    "google/siglip2-so400m-patch14-384": (1_136_009_291, 36.8),
    "facebook/dino-vits16": (21_665_664, 3.5),
    "facebook/dino-vits8": (21_670_272, 13.8),
    "facebook/dinov2-small": (22_056_576, 4.5),
    "facebook/sam-vit-huge": (641_090_864, 2148.0),
    "vit_h": (641_090_864, 2148.0),
    "IDEA-Research/grounding-dino-base": (232_813_956, 337.5),
}
"""Parameters of published encoders (buffers included), and MiB of fp32 activations per image of a batch.

Counted on the meta device by `backbone.memory.PeakBytes`; for Grounding DINO, the activations are those of its image
tower at 800 x 800.
"""


def scoring_bytes(metrics: Iterable[Metric]) -> int:
    """Return bytes for the encoders of these metrics, each once, and for the batch that needs most.

    For an encoder that is not in `PUBLISHED`, the size of its files counts.
    """
    found = {spec: None for metric in metrics for spec in _encoders(metric)}
    return sum(map(_weight_bytes, found)) + max(map(_activation_bytes, found), default=0)


def _encoders(node: Any) -> Iterator[Any]:
    """Yield all encoder specifications nested in a metric."""
    if not is_dataclass(node) or isinstance(node, type):
        return
    if isinstance(_source(node), str):
        yield node
    for entry in fields(node):
        yield from _encoders(getattr(node, entry.name))


def _source(spec: Any) -> Any:
    return getattr(spec, "source", None) or getattr(spec, "architecture", None)


def _weight_bytes(spec: Any) -> int:
    if published := PUBLISHED.get(_source(spec)):
        return published[0] * (4 if getattr(spec, "dtype", "float32") == "float32" else 2)
    from knowcusbench.storage.files import local_path

    place = local_path(getattr(spec, "source", None) or spec.checkpoint)
    directory = place if place.exists() else cached(_source(spec), getattr(spec, "revision", None))
    if directory is None:
        return 0
    files = [directory] if directory.is_file() else [file for kind in WEIGHTS for file in directory.glob(kind)]
    return sum(file.stat().st_size for file in files)


def _activation_bytes(spec: Any) -> int:
    _, each = PUBLISHED.get(_source(spec), (0, 0.0))
    return int(each * MIB * getattr(spec, "batch_size", 1))
