"""PickScore's model through transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from knowcusbench.device import resolve_device
from knowcusbench.metrics.checkpoint import (
    TRANSFORMERS_WEIGHTS,
    Dtype,
    load_transformers,
    loading,
    locate,
    version,
)
from knowcusbench.metrics.encoders import ImageTextEncoder


@dataclass(frozen=True, kw_only=True)
class PreferenceSpec:
    """A preference model in the form of a transformers `CLIPModel`, with the processor it was trained with.

    Attributes:
        source: a directory, or a hub id, of the model.
        revision: commit, tag or branch of the hub repository.
        processor: a directory, or a hub id, of the `CLIPProcessor`: PickScore's is that of the CLIP it
            comes from.
        processor_revision: commit, tag or branch of the processor's hub repository.
        device: "auto", "cpu" or "cuda".
        dtype: of the weights; embeddings are normalised in fp32 in any case.
        batch_size: images or texts encoded together.
    """

    source: str
    revision: str | None = None
    processor: str
    processor_revision: str | None = None
    device: str = "auto"
    dtype: Dtype = "float32"
    batch_size: int = 16

    def load(self) -> "PreferenceEncoder":
        """The encoder of this process for this specification. Raises WeightsError if it can't be loaded."""
        return _load(self)

    def weights(self) -> Mapping[str, str]:
        """The versions of model and processor by their sources, as in `Metric.weights`."""
        return {
            self.processor: version(locate(self.processor, self.processor_revision)),
            self.source: version(locate(self.source, self.revision, TRANSFORMERS_WEIGHTS)),
        }


@cache
def _load(spec: PreferenceSpec) -> "PreferenceEncoder":
    return PreferenceEncoder(spec)


class PreferenceEncoder(ImageTextEncoder):
    """A resident CLIP that was trained on human preferences.

    Attributes:
        logit_scale: the learned logarithm of the factor on the cosine.
    """

    def __init__(self, spec: PreferenceSpec) -> None:
        super().__init__(spec.batch_size)
        self._device = resolve_device(spec.device)
        directory = locate(spec.source, spec.revision, TRANSFORMERS_WEIGHTS)
        model = load_transformers(CLIPModel, spec.source, directory)
        processor_directory = locate(spec.processor, spec.processor_revision)
        with loading(spec.processor):
            self._processor = CLIPProcessor.from_pretrained(processor_directory)
        self.logit_scale = float(model.logit_scale)
        self.context_length = model.config.text_config.max_position_embeddings
        self._model = model.to(self._device, getattr(torch, spec.dtype))

    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        inputs = self._processor(images=list(images), return_tensors="pt").to(self._device, self._model.dtype)
        features: Tensor = self._model.get_image_features(**inputs).pooler_output
        return features

    def text_features(self, texts: Sequence[str]) -> Tensor:
        # Always the full context, so that a text's features do not depend on the lengths of the others.
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
