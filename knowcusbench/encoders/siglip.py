"""SigLIP and SigLIP 2 through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from knowcusbench.encoders.checkpoint import (
    TRANSFORMERS_WEIGHTS,
    load_image_processor,
    load_transformers,
    loading,
    locate,
    transformers_config,
)
from knowcusbench.encoders.clip_transformers import TransformersEncoder, TransformersSpec
from knowcusbench.errors import WeightsError, first_line
from knowcusbench.machine.device import resolve_device

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SiglipSpec(TransformersSpec):
    """A transformers `SiglipModel` with its processor: SigLIP (arXiv 2303.15343), or SigLIP 2 of fixed resolution.

    SigLIP 2 is arXiv 2502.14786; its NaFlex variant is another model and not supported.

    Images are prepared by the checkpoint's processor (squeezed to a square). Texts are lower-cased, closed by the end
    token, truncated and padded to the context length, and the padding is attended to: so both were trained. The
    processors lower-case only the first SigLIP's texts; without it, SigLIP 2 is much worse (google-research/big_vision
    issue 187). The first SigLIP's tokenizer also drops punctuation.
    """

    # `spiece.model` is the first SigLIP's vocabulary; SigLIP 2 has its own in `tokenizer.json`.
    files: ClassVar[tuple[str, ...]] = (*TRANSFORMERS_WEIGHTS, "spiece.model")

    def build(self) -> SiglipEncoder:
        return SiglipEncoder(self)

    def load(self) -> SiglipEncoder:
        encoder: SiglipEncoder = super().load()
        return encoder


class SiglipEncoder(TransformersEncoder):
    """A resident SigLIP."""

    def __init__(self, spec: SiglipSpec) -> None:
        import torch
        from transformers import AutoProcessor, SiglipModel

        super().__init__(spec)
        self._device = resolve_device(spec.device)
        directory = locate(spec.source, spec.revision, spec.files)
        config = transformers_config(spec.source, directory, "siglip")
        model = load_transformers(SiglipModel, spec.source, directory)
        try:
            with loading(spec.source):
                self._processor = AutoProcessor.from_pretrained(directory, trust_remote_code=False)
        except ImportError as error:
            raise WeightsError(f"{spec.source}: {first_line(error)} (pip install sentencepiece protobuf)") from error
        self._image_processor = load_image_processor(spec.source, directory, spec.image_backend)
        self.context_length = config.text_config.max_position_embeddings
        self._model = model.to(self._device, getattr(torch, spec.dtype))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        inputs = self._processor.tokenizer(
            [text.lower() for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        features: Tensor = self._model.get_text_features(inputs["input_ids"].to(self._device)).pooler_output
        return features

    def truncates(self, text: str) -> bool:
        return len(self._processor.tokenizer(text.lower(), verbose=False).input_ids) > self.context_length
