"""Segment Anything (arXiv 2304.02643) prompted by a box: through transformers, or the authors' package.

Of SAM's three masks for a box, the one with the highest predicted IoU is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from knowcusbench.encoders.batching import PaddedBatches, retry_out_of_memory
from knowcusbench.encoders.checkpoint import (
    TRANSFORMERS_WEIGHTS,
    load_transformers,
    loading,
    locate,
    version,
)
from knowcusbench.encoders.segmenters.base import Box, Mask, SegmenterSpec
from knowcusbench.errors import ConfigError, WeightsError, did_you_mean
from knowcusbench.machine.device import Precision, keep_fp32, resolve_device
from knowcusbench.storage.versions import SPEED


@dataclass(frozen=True, kw_only=True)
class SamSpec(SegmenterSpec):
    """SAM as a transformers `SamModel`.

    Attributes:
        source: directory or hub id of the model and its processor.
        revision: commit, tag or branch of the hub repository.
        device: "auto", "cpu" or "cuda".
        dtype: dtype of the image encoder, which takes nearly all of the time. Boxes and masks are computed in fp32:
            bfloat16 can't tell neighbouring pixels apart.
        batch_size: images segmented together. One image of 1024 x 1024 keeps a GPU busy and takes 2.1 GiB of its
            memory.
    """

    source: str
    revision: str | None = None
    device: str = field(default="auto", metadata=SPEED)
    dtype: Precision = Precision.float32
    batch_size: int = field(default=1, metadata=SPEED)

    def predictor(self) -> "TransformersSam":
        return TransformersSam(self)

    def weights(self) -> Mapping[str, str]:
        return {
            **self.boxes.weights(),
            self.source: version(locate(self.source, self.revision, TRANSFORMERS_WEIGHTS)),
        }


@dataclass(frozen=True, kw_only=True)
class SegmentAnythingSpec(SegmenterSpec):
    """SAM through the authors' package with their published checkpoint (`sam_vit_h_4b8939.pth`).

    Attributes:
        architecture: a key of `segment_anything.sam_model_registry` ("vit_h").
        checkpoint: the .pth file.
        device: "auto", "cpu" or "cuda".
    """

    architecture: str
    checkpoint: str
    device: str = field(default="auto", metadata=SPEED)

    def predictor(self) -> "SegmentAnything":
        return SegmentAnything(self)

    def weights(self) -> Mapping[str, str]:
        return {**self.boxes.weights(), self.checkpoint: version(self.file())}

    def file(self) -> Path:
        """Path of the checkpoint file. Raises WeightsError if there is none."""
        path = Path(self.checkpoint).expanduser()
        if not path.is_file():
            raise WeightsError(f"{self.checkpoint}: no such checkpoint file of segment-anything")
        return path


def is_too_narrow(image: Image.Image, longest: int) -> bool:
    """Return whether an image's shorter side vanishes when the longer side is resized to `longest` pixels."""
    return min(image.size) * longest / max(image.size) < 1


def empty_mask(image: Image.Image) -> Mask:
    """Return a mask that is false everywhere; the image then counts whole."""
    return np.zeros((image.height, image.width), dtype=np.bool_)


class TransformersSam:
    """A resident `SamModel`. All images are padded to one square size, so a batch does not change a mask."""

    def __init__(self, spec: SamSpec) -> None:
        import torch
        from transformers import SamModel, SamProcessor

        self._batches = PaddedBatches(spec.batch_size, spec.device)
        self._device = resolve_device(spec.device)
        keep_fp32(self._device, "float32")
        directory = locate(spec.source, spec.revision, TRANSFORMERS_WEIGHTS)
        self._model = load_transformers(SamModel, spec.source, directory).to(self._device)
        self._model.vision_encoder.to(getattr(torch, spec.dtype))
        with loading(spec.source):
            self._processor = SamProcessor.from_pretrained(directory)

    def predict(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> list[Mask]:
        longest = self._processor.image_processor.size["longest_edge"]
        fitting = [pair for pair in zip(images, boxes, strict=True) if not is_too_narrow(pair[0], longest)]
        masks = (mask for batch in self._batches.run(self._predict, fitting) for mask in batch)
        return [empty_mask(image) if is_too_narrow(image, longest) else next(masks) for image in images]

    def _predict(self, batch: Sequence[tuple[Image.Image, Box]]) -> list[Mask]:
        import torch

        inputs = self._processor(
            [image for image, _ in batch], input_boxes=[[list(box)] for _, box in batch], return_tensors="pt"
        )
        encoder = self._model.vision_encoder
        with torch.inference_mode():
            features = encoder(inputs["pixel_values"].to(self._device, encoder.dtype)).last_hidden_state
            outputs = self._model(
                image_embeddings=features.float(),
                input_boxes=inputs["input_boxes"].to(self._device, torch.float32),
                multimask_output=True,
            )
        masks = self._processor.image_processor.post_process_masks(
            outputs.pred_masks.cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        best = outputs.iou_scores[:, 0].argmax(dim=-1).tolist()
        return [proposals[0, index].numpy() for proposals, index in zip(masks, best, strict=True)]


class SegmentAnything:
    """A resident model of the segment-anything package, in fp32."""

    def __init__(self, spec: SegmentAnythingSpec) -> None:
        import segment_anything
        import torch

        registry = segment_anything.sam_model_registry
        if spec.architecture not in registry:
            hint = did_you_mean(spec.architecture, registry)
            raise ConfigError(f"segmenter.architecture: no {spec.architecture!r} in segment-anything{hint}")
        file = spec.file()
        with loading(spec.checkpoint):
            # The registry's own loader would unpickle anything in the file.
            model = registry[spec.architecture]()
            model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self._device = resolve_device(spec.device)
        keep_fp32(self._device, "float32")
        model = model.eval().requires_grad_(False).to(self._device)
        self._predictor = segment_anything.SamPredictor(model)

    def predict(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> list[Mask]:
        longest = self._predictor.transform.target_length
        return [
            empty_mask(image)
            if is_too_narrow(image, longest)
            else retry_out_of_memory(partial(self._predict, image, box), self._device, "an image in segment-anything")
            for image, box in zip(images, boxes, strict=True)
        ]

    def _predict(self, image: Image.Image, box: Box) -> Mask:
        self._predictor.set_image(np.asarray(image))
        masks, predicted_iou, _ = self._predictor.predict(box=np.array(box), multimask_output=True)
        best: Mask = masks[int(predicted_iou.argmax())]
        return best
