"""CLIP through transformers: PickScore's model, and CLIP as DreamBench++ loads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from knowcusbench.encoders.base import EncoderSpec, ImageTextEncoder
from knowcusbench.encoders.checkpoint import (
    TRANSFORMERS_WEIGHTS,
    ImageBackend,
    load_image_processor,
    load_transformers,
    loading,
    locate,
    version,
)
from knowcusbench.machine.device import resolve_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TransformersSpec(EncoderSpec):
    """A transformers image-text model with its processor.

    Attributes:
        image_backend: the library that resizes images. `pil` was used by transformers before 5, and so by all code of
            published scores; `torchvision` is the default of transformers 5.
    """

    image_backend: ImageBackend = "pil"


@dataclass(frozen=True, kw_only=True)
class TransformersClipSpec(TransformersSpec):
    """A transformers `CLIPModel` with its processor.

    Attributes:
        processor: directory or hub id of the `CLIPProcessor`: PickScore uses that of the CLIP it comes from. Null for
            the `source`.
        processor_revision: commit, tag or branch of the processor's hub repository.
    """

    files: ClassVar[tuple[str, ...]] = TRANSFORMERS_WEIGHTS

    processor: str | None = None
    processor_revision: str | None = None

    def build(self) -> TransformersClipEncoder:
        return TransformersClipEncoder(self)

    def load(self) -> TransformersClipEncoder:
        encoder: TransformersClipEncoder = super().load()
        return encoder

    def weights(self) -> Mapping[str, str]:
        processor, revision = self.processor_source
        return {processor: version(locate(processor, revision)), **super().weights()}

    @property
    def processor_source(self) -> tuple[str, str | None]:
        """Directory or hub id of the processor, and its revision."""
        return (self.processor, self.processor_revision) if self.processor else (self.source, self.revision)


class TransformersEncoder(ImageTextEncoder):
    """A resident pair of transformers towers with its processor."""

    _processor: Any
    _image_processor: Any
    _model: Any
    _device: torch.device

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self._image_processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def image_features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self._model.get_image_features(pixels.to(self._device, self._model.dtype)).pooler_output
        return features


class TransformersClipEncoder(TransformersEncoder):
    """A resident CLIP.

    Attributes:
        logit_scale: the learned logarithm of the factor on the cosine.
    """

    def __init__(self, spec: TransformersClipSpec) -> None:
        import torch
        from transformers import CLIPModel, CLIPProcessor

        super().__init__(spec)
        self._device = resolve_device(spec.device)
        directory = locate(spec.source, spec.revision, spec.files)
        model = load_transformers(CLIPModel, spec.source, directory)
        processor, revision = spec.processor_source
        processor_directory = locate(processor, revision)
        with loading(processor):
            self._processor = CLIPProcessor.from_pretrained(processor_directory)
        self._image_processor = load_image_processor(processor, processor_directory, spec.image_backend)
        self.logit_scale = float(model.logit_scale)
        self.context_length = model.config.text_config.max_position_embeddings
        self._model = model.to(self._device, getattr(torch, spec.dtype))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        # Padded to the full context, so that a text's features do not depend on the lengths of the others.
        inputs = self._processor(
            text=list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        ).to(self._device)
        features: Tensor = self._model.get_text_features(**inputs).pooler_output
        return features

    def truncates(self, text: str) -> bool:
        return len(self._processor.tokenizer(text, verbose=False).input_ids) > self.context_length
