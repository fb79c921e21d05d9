"""DINO and DINOv2 through transformers: vision transformers that learned from images alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from knowcusbench.encoders.base import EncoderSpec, ImageEncoder
from knowcusbench.encoders.checkpoint import (
    TRANSFORMERS_PICKLE,
    TRANSFORMERS_WEIGHTS,
    load_transformers,
    locate,
    transformers_config,
)
from knowcusbench.errors import ConfigError
from knowcusbench.machine.device import resolve_device

if TYPE_CHECKING:
    from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels, scaled to 0..1, by channel."""


@dataclass(frozen=True, kw_only=True)
class DinoSpec(EncoderSpec):
    """DINO (arXiv 2104.14294; `ViTModel`) or DINOv2 (arXiv 2304.07193; `Dinov2Model`) in transformers' format.

    An image's shortest side is resized to `resize` pixels (bicubic, antialiased, on 8-bit pixels: by Pillow), the
    centre is cropped to `crop` x `crop`, and ImageNet's mean and standard deviation are applied. The authors evaluate
    so (facebookresearch/dino `eval_knn.py`; facebookresearch/dinov2 `dinov2/data/transforms.py`). A processor in the
    checkpoint is ignored.

    Attributes:
        resize: pixels of the shortest side.
        crop: pixels of the model's input. A DINO needs its training size; a DINOv2 takes any multiple of its patches,
            for which transformers resizes its position embeddings (bicubic).
    """

    files: ClassVar[tuple[str, ...]] = (*TRANSFORMERS_WEIGHTS, TRANSFORMERS_PICKLE)

    resize: int = 256
    crop: int = 224

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.resize:
            raise ConfigError(f"crop: expected 1 to {self.resize} pixels, the `resize` before it, found {self.crop}")

    def build(self) -> DinoEncoder:
        return DinoEncoder(self)

    def load(self) -> DinoEncoder:
        encoder: DinoEncoder = super().load()
        return encoder


class DinoEncoder(ImageEncoder):
    """A resident DINO.

    Its features are the class token after the last block and the final LayerNorm, `last_hidden_state[:, 0]` (images,
    hidden size): no head, no pooler, no patch tokens.
    """

    def __init__(self, spec: DinoSpec) -> None:
        import torch
        from torchvision import transforms
        from transformers import AutoModel

        super().__init__(spec)
        self._device = resolve_device(spec.device)
        directory = locate(spec.source, spec.revision, spec.files)
        config = transformers_config(spec.source, directory, "vit", "dinov2")
        fits = spec.crop == config.image_size if config.model_type == "vit" else spec.crop % config.patch_size == 0
        if not fits:
            raise ConfigError(
                f"crop: {spec.source} was trained on {config.image_size} pixels in patches of {config.patch_size}, "
                f"found {spec.crop}"
            )
        # The published DINO has no pooler, which transformers would add with random weights.
        settings = {"add_pooling_layer": False} if config.model_type == "vit" else {}
        model = load_transformers(AutoModel, spec.source, directory, **settings)
        self._model = model.to(self._device, getattr(torch, spec.dtype))
        self._transform = transforms.Compose(
            [
                transforms.Resize(spec.resize, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(spec.crop),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self._transform(image)
        return pixels

    def image_features(self, pixels: Tensor) -> Tensor:
        outputs = self._model(pixels.to(self._device, self._model.dtype))
        features: Tensor = outputs.last_hidden_state[:, 0]
        return features
