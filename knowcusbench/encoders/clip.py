"""CLIP through open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from knowcusbench.encoders.base import EncoderSpec, ImageTextEncoder
from knowcusbench.encoders.batching import batches, retry_out_of_memory
from knowcusbench.encoders.checkpoint import loading, locate
from knowcusbench.machine.device import resolve_device

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClipSpec(EncoderSpec):
    """A CLIP checkpoint in open_clip's format: `open_clip_config.json` and `open_clip_model.safetensors`.

    `source` may be a hub id of open_clip's library. The configuration file states the preprocessing, the tokenizer and
    the architecture with its activation: OpenAI's weights need `quick_gelu: true`; with plain GELU they load without
    complaint and give other numbers.
    """

    files: ClassVar[tuple[str, ...]] = ("open_clip_model.safetensors",)

    def build(self) -> ClipEncoder:
        return ClipEncoder(self)

    def load(self) -> ClipEncoder:
        encoder: ClipEncoder = super().load()
        return encoder


class OpenClipEncoder(ImageTextEncoder):
    """A resident open_clip model with its tokenizer, which truncates texts and keeps the end token last.

    Args:
        model: in fp32 on the CPU.
        tokenizer: gives token ids (texts, context length).
    """

    def __init__(self, spec: EncoderSpec, model: Any, tokenizer: Any) -> None:
        import torch

        super().__init__(spec)
        self._device = resolve_device(spec.device)
        self._dtype = getattr(torch, spec.dtype)
        self._model = model.eval().requires_grad_(False).to(self._device, self._dtype)
        self._tokenizer = tokenizer
        self.context_length = tokenizer.context_length

    def image_features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self._model.encode_image(pixels.to(self._device, self._dtype))
        return features

    def text_features(self, texts: Sequence[str]) -> Tensor:
        features: Tensor = self._model.encode_text(self._tokenizer(list(texts)).to(self._device))
        return features

    def truncates(self, text: str) -> bool:
        # In a truncated text, the end token moves by one when there is room for one token more.
        import torch

        longer = self._tokenizer([text], context_length=self.context_length + 1)
        return not torch.equal(longer[:, :-1], self._tokenizer([text]))


class ClipEncoder(OpenClipEncoder):
    """A resident CLIP with open_clip's own preprocessing and tokenizer for the checkpoint."""

    def __init__(self, spec: ClipSpec) -> None:
        import open_clip

        name = f"local-dir:{locate(spec.source, spec.revision, spec.files)}"
        with loading(spec.source):
            model, self._transform = open_clip.create_model_from_pretrained(name)
            tokenizer = open_clip.get_tokenizer(name)
        super().__init__(spec, model, tokenizer)

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self._transform(image)
        return pixels

    def patch_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return features (images, patches, width) of the image tower's last block, in fp32 on the CPU.

        They are taken after its norm, before pooling and projection.
        """
        import torch

        with torch.inference_mode():
            features = [
                retry_out_of_memory(partial(self._patches, batch), self._device, f"a batch of {len(batch)} images")
                for batch in batches(images, self._batches.size)
            ]
            return torch.cat(features).float().cpu()

    def _patches(self, images: Sequence[Image.Image]) -> Tensor:
        import torch

        pixels = torch.stack([self.preprocess(image) for image in images])
        outputs = self._model.visual.forward_intermediates(
            pixels.to(self._device, self._dtype),
            indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        (features,) = outputs["image_intermediates"]
        tokens: Tensor = features
        return tokens
