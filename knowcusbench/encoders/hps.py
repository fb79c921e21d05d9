"""HPSv2's CLIP through open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from knowcusbench.encoders.base import EncoderSpec
from knowcusbench.encoders.checkpoint import loading, locate, version
from knowcusbench.encoders.clip import OpenClipEncoder
from knowcusbench.errors import ConfigError, WeightsError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class HpsSpec(EncoderSpec):
    """An HPSv2 checkpoint (arXiv 2306.09341): a CLIP fine-tuned on human preferences.

    It is a pickle whose `state_dict` has open_clip's names. Images are prepared as in the authors' package
    (tgxs002/HPSv2 at 866735e, `hpsv2/img_score.py`, which asks `hpsv2/src/open_clip/factory.py` for
    `light_augmentation=True`, hence `resize_longest_max=True` of `transform.py`): scaled to 0..1 first, the *longest*
    side resized to the input size (bicubic, on floats, so that values may leave 0..1), the rest padded with black on
    both sides, then OpenAI's mean and standard deviation. Nothing is cropped. The package computes in mixed precision
    on a GPU, this encoder in `dtype`.

    Attributes:
        file: the checkpoint's file in `source`: of xswu/HPSv2, "HPS_v2_compressed.pt" is v2.0 and
            "HPS_v2.1_compressed.pt" v2.1.
        architecture: an open_clip model, or "local-dir:" and a directory with `open_clip_config.json`.
        antialias: whether resizing antialiases. The package uses torchvision's default for tensors: true since its 0.17
            of January 2024, false before, when v2.0 was published (June 2023).
    """

    file: str
    architecture: str = "ViT-H-14"
    antialias: bool = True

    def build(self) -> HpsEncoder:
        return HpsEncoder(self)

    def load(self) -> HpsEncoder:
        encoder: HpsEncoder = super().load()
        return encoder

    def weights(self) -> Mapping[str, str]:
        return {f"{self.source}/{self.file}": version(self.checkpoint())}

    def checkpoint(self) -> Path:
        """Path of the checkpoint file. Raises WeightsError if it is unavailable."""
        path = locate(self.source, self.revision, (self.file,)) / self.file
        if not path.is_file():
            raise WeightsError(f"{self.source}: has no file {self.file!r}")
        return path


class HpsEncoder(OpenClipEncoder):
    """A resident HPSv2 with open_clip's tokenizer for its architecture."""

    def __init__(self, spec: HpsSpec) -> None:
        import open_clip
        import torch

        with loading(spec.architecture):
            config = open_clip.get_model_config(spec.architecture)
        if config is None:
            hint = did_you_mean(spec.architecture, open_clip.list_models())
            raise ConfigError(f"architecture: no {spec.architecture!r} in open_clip{hint}")
        path = spec.checkpoint()
        with loading(str(path)):
            model = open_clip.CLIP(**config)
            tokenizer = open_clip.get_tokenizer(spec.architecture)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(_fitting(checkpoint, model.state_dict(), path, spec.architecture))
        self._size, _ = model.visual.image_size
        self._antialias = spec.antialias
        super().__init__(spec, model, tokenizer)

    def preprocess(self, image: Image.Image) -> Tensor:
        import open_clip
        from torchvision.transforms import InterpolationMode, functional

        pixels = functional.to_tensor(image)
        scale = self._size / max(image.size)
        height, width = (max(round(side * scale), 1) for side in pixels.shape[1:])
        pixels = functional.resize(pixels, [height, width], InterpolationMode.BICUBIC, antialias=self._antialias)
        top, left = (self._size - height) // 2, (self._size - width) // 2
        pixels = functional.pad(pixels, [left, top, self._size - width - left, self._size - height - top])
        normalised: Tensor = functional.normalize(pixels, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        return normalised


def _fitting(checkpoint: Any, wanted: Mapping[str, Tensor], path: Path, architecture: str) -> Mapping[str, Tensor]:
    """Return the weights in a checkpoint. Raises WeightsError if there are none, or they do not fit the model."""
    weights = checkpoint.get("state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping):
        raise WeightsError(f"{path}: expected a checkpoint with a `state_dict`")
    differing = sorted(
        str(name)
        for name in {*wanted, *weights}
        if getattr(wanted.get(name), "shape", None) != getattr(weights.get(name), "shape", None)
    )
    if differing:
        raise WeightsError(f"{path}: {len(differing)} weights do not fit {architecture}, the first is {differing[0]}")
    return weights
