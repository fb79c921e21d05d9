"""Boxes that prompt a segmenter: the whole image, or Grounding DINO's box for the class noun."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

from PIL import Image

from knowcusbench.encoders.batching import retry_out_of_memory
from knowcusbench.encoders.checkpoint import TRANSFORMERS_WEIGHTS, load_transformers, loading, locate, version
from knowcusbench.encoders.segmenters.base import Box, BoxFinder, BoxSpec
from knowcusbench.errors import MetricError
from knowcusbench.machine.device import keep_fp32, resolve_device
from knowcusbench.storage.versions import SPEED


@dataclass(frozen=True, kw_only=True)
class WholeImageBoxes(BoxSpec):
    """The box around the whole image, for images whose only subject is the concept."""

    def load(self) -> "WholeImageBoxes":
        return self

    def find(self, images: Sequence[Image.Image], class_noun: str) -> list[Box | None]:
        return [(0.0, 0.0, float(image.width), float(image.height)) for image in images]


@dataclass(frozen=True, kw_only=True)
class GroundingDinoBoxes(BoxSpec):
    """The box that Grounding DINO (arXiv 2303.05499) scores highest for the class noun.

    Attributes:
        source: directory or hub id of a transformers zero-shot object detector with its processor.
        revision: commit, tag or branch of the hub repository.
        threshold: lowest score of an accepted box, 0 to 1; 0.35 is the box threshold of the authors' demo.
        device: "auto", "cpu" or "cuda".
    """

    source: str
    revision: str | None = None
    threshold: float = 0.35
    device: str = field(default="auto", metadata=SPEED)

    def load(self) -> BoxFinder:
        return _load(self)

    def weights(self) -> Mapping[str, str]:
        return {self.source: version(locate(self.source, self.revision, TRANSFORMERS_WEIGHTS))}


@cache
def _load(spec: GroundingDinoBoxes) -> BoxFinder:
    return GroundingDino(spec)


class GroundingDino:
    """A resident Grounding DINO, in fp32."""

    def __init__(self, spec: GroundingDinoBoxes) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self._threshold = spec.threshold
        self._device = resolve_device(spec.device)
        keep_fp32(self._device, "float32")
        directory = locate(spec.source, spec.revision, TRANSFORMERS_WEIGHTS)
        model = load_transformers(AutoModelForZeroShotObjectDetection, spec.source, directory)
        with loading(spec.source):
            self._processor = AutoProcessor.from_pretrained(directory, trust_remote_code=False)
        self._model = model.to(self._device)

    def find(self, images: Sequence[Image.Image], class_noun: str) -> list[Box | None]:
        if not class_noun.strip():
            raise MetricError(
                "Grounding DINO: an image has no class noun to find; give it in the column 'class_noun', or choose "
                "encoders/segmenter/boxes=whole_image"
            )
        # One by one: a batch pads images to the largest, which changes the boxes.
        what = "an image in Grounding DINO"
        return [retry_out_of_memory(partial(self._find, image, class_noun), self._device, what) for image in images]

    def _find(self, image: Image.Image, class_noun: str) -> Box | None:
        # The model was trained on lower case with a full stop after every phrase.
        import torch

        text = f"{class_noun.lower()}."
        inputs = self._processor(images=image, text=text, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            outputs = self._model(**inputs)
        (detected,) = self._processor.post_process_grounded_object_detection(
            outputs, inputs.input_ids, threshold=self._threshold, target_sizes=[(image.height, image.width)]
        )
        if len(detected["scores"]) == 0:
            return None
        left, top, right, bottom = detected["boxes"][detected["scores"].argmax()].tolist()
        box = max(left, 0.0), max(top, 0.0), min(right, float(image.width)), min(bottom, float(image.height))
        return box if box[0] < box[2] and box[1] < box[3] else None
