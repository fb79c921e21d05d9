"""On a GPU, fp32 is computed in fp32."""

from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from torch import Tensor

from knowcusbench.encoders import base as encoders
from knowcusbench.encoders.base import EncoderSpec, ImageEncoder
from knowcusbench.machine.device import keep_fp32


@pytest.fixture(autouse=True)
def rounding() -> Iterator[None]:
    """TF32 on, the default for convolutions and some programs' setting for products; restored afterwards."""
    flags = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = True
    yield
    for flag, value in zip(flags, before, strict=True):
        flag.allow_tf32 = value


def rounds() -> list[bool]:
    return [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32]


@pytest.mark.parametrize(
    ("device", "dtype", "rounded"),
    [("cuda", "float32", False), ("cuda", "bfloat16", True), ("cpu", "float32", True)],
)
def test_only_fp32_on_a_gpu_is_concerned(device: str, dtype: str, rounded: bool) -> None:
    keep_fp32(torch.device(device), dtype)
    assert rounds() == [rounded, rounded]


class Spec(EncoderSpec):
    def build(self) -> "ImageEncoder":
        return Encoder(self)


class Encoder(ImageEncoder):
    def preprocess(self, image: Image.Image) -> Tensor:
        raise NotImplementedError

    def image_features(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(("dtype", "rounded"), [("float32", False), ("bfloat16", True)])
def test_an_encoder_of_dtype_float32_is_one(dtype: str, rounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve_device", lambda _: torch.device("cuda"))
    Spec(source="nothing", dtype=dtype).build()
    assert rounds() == [rounded, rounded]
