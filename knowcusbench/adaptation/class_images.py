"""Class images for prior preservation (DreamBooth, arXiv 2208.12242), drawn once and shared."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from knowcusbench.adapters.cost import Meter
from knowcusbench.adapters.peft_files import entry_name
from knowcusbench.backbone.base import Backbone
from knowcusbench.storage.digests import text_digest
from knowcusbench.storage.files import atomic_path, json_text
from knowcusbench.storage.images import read_image

RECORD = "drawn.json"


@dataclass(frozen=True)
class ClassImages:
    """A store of the unadapted backbone's images of a prompt, shared by concepts, training settings and runs.

    Each prompt's images have a folder of their own, with a record of everything that determines them and of the time
    they took.
    """

    directory: Path

    def drawn(self, prompt: str, count: int, backbone: Backbone, meter: Meter) -> list[Image.Image]:
        """Return `count` images of a prompt, of the backbone's size.

        If they exist already, `meter` is charged their original seconds, so that a cost does not depend on who came
        first.
        """
        key = {
            "backbone": backbone.digest,
            "image_size": list(backbone.image_size),
            "sampling": dict(backbone.sampling),
            "prompt": prompt,
            "count": count,
            **backbone.settings,
        }
        entry = self.directory / entry_name(key)
        names = [f"{index:04}.png" for index in range(count)]
        record = entry / RECORD
        if record.exists():
            meter.charge(json.loads(record.read_text(encoding="utf-8"))["seconds"])
            return [read_image(entry / name) for name in names]
        started = time.perf_counter()
        images = backbone.sample(backbone.encode(prompt), class_seeds(prompt, count))
        seconds = time.perf_counter() - started
        with atomic_path(entry) as temporary:
            temporary.mkdir()
            for name, image in zip(names, images, strict=True):
                image.save(temporary / name)
            text = json_text({"seconds": seconds, "key": key}, indent=2)
            (temporary / RECORD).write_text(text + "\n", encoding="utf-8")
        return images


def class_seeds(prompt: str, count: int) -> list[int]:
    """Return noise seeds of a prompt's class images: the same for every concept.

    >>> class_seeds("a dog", 2) == class_seeds("a dog", 3)[:2]
    True
    """
    return [int(text_digest(f"class image {prompt} {index}", 15), 16) for index in range(count)]
