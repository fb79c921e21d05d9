"""Count the shapes that ship with the package, and write `counts.json`: `python -m knowcusbench.toymaker.counts`."""

from dataclasses import asdict
from typing import Any

from knowcusbench.backbone import Flux2KleinSpec, Lumina2Spec, QwenImage21Spec, QwenImageSpec, ZImageSpec
from knowcusbench.backbone.checkpoint import Checkpoint, open_checkpoint
from knowcusbench.backbone.counting import count_checkpoint
from knowcusbench.backbone.counts import RECORDED, counts_digest
from knowcusbench.backbone.published import published_checkpoint
from knowcusbench.storage.tables import write_json
from knowcusbench.toybox.shipped import WEIGHTS

QWEN = QwenImageSpec.family


def shipped() -> dict[str, tuple[Checkpoint, int]]:
    """Return the checkpoints with recorded counts, by name, each with the height and width of its images."""
    return {
        "Qwen-Image": (published_checkpoint(QWEN, "Qwen/Qwen-Image"), 1024),
        "FLUX.2 [klein] 4B": (
            published_checkpoint(Flux2KleinSpec.family, "black-forest-labs/FLUX.2-klein-base-4B"),
            1024,
        ),
        "Z-Image": (published_checkpoint(ZImageSpec.family, "Tongyi-MAI/Z-Image"), 1024),
        "Lumina-Image-2.0": (published_checkpoint(Lumina2Spec.family, "Alpha-VLLM/Lumina-Image-2.0"), 1024),
        "Qwen-Image-2.1": (published_checkpoint(QwenImage21Spec.family, "Qwen/Qwen-Image-2.1"), 1024),
        "the embedded world": (open_checkpoint(QWEN, str(WEIGHTS / "pipeline"), None, weights=False), 64),
    }


def count_shipped() -> dict[str, Any]:
    """Return the content of `counts.json`."""
    return {
        counts_digest(checkpoint, height=size, width=size): {
            "of": f"{name}, {size} x {size} pixels",
            "counts": asdict(count_checkpoint(checkpoint, height=size, width=size)),
        }
        for name, (checkpoint, size) in shipped().items()
    }


if __name__ == "__main__":
    write_json(RECORDED, count_shipped())
