"""HPSv2 against its published formula, with the same weights in transformers and pixels from Pillow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from encoders.clip_twin import Features, clip_in_transformers, token_ids, unit
from encoders.small_checkpoints import HPS_CONFIG
from numpy.typing import NDArray
from PIL import Image

from knowcusbench.encoders.hps import HpsSpec
from knowcusbench.errors import ConfigError, MetricError, WeightsError
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.hpsv2 import HpsV2, HpsV21

SIZE = HPS_CONFIG["vision_cfg"]["image_size"]
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BOXES = ((0, 0, 256, 256), (10, 0, 250, 155), (0, 7, 113, 256), (0, 0, 40, 31), (0, 0, 56, 20))


def padded(channels: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return three channels, 0 to 1, in the middle of a black square, with OpenAI's mean and standard deviation."""
    small = np.stack(channels, axis=-1).astype(np.float64)
    height, width, _ = small.shape
    square = np.zeros((SIZE, SIZE, 3))
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    square[top : top + height, left : left + width] = small
    return ((square - MEAN) / STD).transpose(2, 0, 1)


def fitted(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of an image whose longest side is `SIZE`."""
    longest = max(image.size)
    return round(SIZE * image.width / longest), round(SIZE * image.height / longest)


def antialiased(image: Image.Image) -> NDArray[np.float64]:
    """Resize by Pillow, on floats."""
    bands = [Image.fromarray(np.asarray(band, dtype=np.float32) / 255) for band in image.split()]
    return padded([np.asarray(band.resize(fitted(image), Image.Resampling.BICUBIC)) for band in bands])


def interpolation(source: int, target: int) -> NDArray[np.float64]:
    """Return the matrix (target, source) of cubic convolution with a = -0.75 between the nearest four pixels."""
    matrix = np.zeros((target, source))
    for row in range(target):
        position = (row + 0.5) * source / target - 0.5
        for pixel in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            x = abs(position - pixel)
            weight = 1.25 * x**3 - 2.25 * x**2 + 1 if x <= 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[row, min(max(pixel, 0), source - 1)] += weight
    return matrix


def aliased(image: Image.Image) -> NDArray[np.float64]:
    """Resize by cubic convolution."""
    width, height = fitted(image)
    rows, columns = interpolation(image.height, height), interpolation(image.width, width)
    return padded([rows @ (np.asarray(band) / 255) @ columns.T for band in image.split()])


class HpsTwin:
    """The checkpoint's weights in transformers' `CLIPModel`."""

    def __init__(self, spec: HpsSpec) -> None:
        weights = torch.load(Path(spec.source) / spec.file, weights_only=True)["state_dict"]
        self.model = clip_in_transformers(HPS_CONFIG, weights)

    @torch.no_grad()
    def images(self, paths: list[Path]) -> Features:
        pixels = np.stack([antialiased(Image.open(path)) for path in paths])
        return unit(self.model.get_image_features(torch.from_numpy(pixels).float()).pooler_output)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Features:
        return unit(self.model.get_text_features(token_ids(texts)).pooler_output)


@pytest.mark.parametrize(("antialias", "expected"), [(True, antialiased), (False, aliased)])
def test_the_longest_side_fits_and_the_rest_is_black(
    antialias: bool, expected: object, hps: HpsSpec, dogs: list[Path]
) -> None:
    encoder = replace(hps, antialias=antialias).load()
    for box in BOXES:
        image = Image.open(dogs[0]).crop(box)
        np.testing.assert_allclose(
            encoder.preprocess(image).numpy(), expected(image), atol=1e-4
        )  # a grey level is 0.015


@pytest.mark.parametrize(("metric", "file"), [(HpsV2, "HPS_v2_compressed.pt"), (HpsV21, "HPS_v2.1_compressed.pt")])
def test_a_score_is_the_cosine_without_logit_scale(
    metric: type[HpsV2], file: str, hps: HpsSpec, dogs: list[Path], ducks: list[Path]
) -> None:
    spec = replace(hps, file=file)
    images = [*dogs, *ducks]
    texts = [f"a dog{' with a hat' * n}" for n in range(len(images))]
    items = [
        ScoreItem(str(n), image, (), text, "dog") for n, (image, text) in enumerate(zip(images, texts, strict=True))
    ]

    scores = metric(encoder=spec).score(items)
    percent = metric(encoder=spec, scale=100.0).score(items)

    twin = HpsTwin(spec)
    cosines = (twin.images(images) * twin.texts(texts)).sum(axis=1)
    np.testing.assert_allclose([score.value for score in scores], cosines, atol=1e-5)
    np.testing.assert_allclose([score.value for score in percent], 100 * cosines, atol=1e-3)
    assert np.ptp(cosines) > 1e-2
    assert twin.model.logit_scale.exp() > 10  # not part of the score


def test_the_published_architecture_is_vit_h() -> None:
    """986.11 million parameters, as open_clip lists ViT-H-14."""
    architecture = HpsSpec(source="", file="").architecture
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(architecture))
    assert sum(parameter.numel() for parameter in model.parameters()) == 986_109_441
    assert model.visual.image_size == (224, 224)


def test_a_text_of_more_than_77_tokens_is_noted(hps: HpsSpec, dogs: list[Path]) -> None:
    # "dog" is one token; the start and end tokens are two more.
    fits, too_long = ("dog " * 75).strip(), ("dog " * 76).strip()
    items = [ScoreItem("s", dogs[0], (), text, "dog") for text in (fits, too_long)]
    whole, cut = HpsV2(encoder=hps).score(items)
    assert (whole.note, cut.note) == ("", "text truncated to 77 tokens")
    assert cut.value == pytest.approx(whole.value, abs=1e-6)


def test_a_file_that_is_not_there_is_named(hps: HpsSpec) -> None:
    with pytest.raises(WeightsError, match=r"hps: has no file 'HPS_v3\.pt'"):
        replace(hps, file="HPS_v3.pt").load()


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ([1, 2], "expected a checkpoint with a `state_dict`"),
        ({"model": {}}, "expected a checkpoint with a `state_dict`"),
        ({"state_dict": 3}, "expected a checkpoint with a `state_dict`"),
        ({"state_dict": {}}, "62 weights do not fit local-dir:.*, the first is ln_final.bias"),
        ({"state_dict": {"logit_scale": "warm"}}, "62 weights do not fit"),
    ],
)
def test_a_pickle_of_something_else_is_named(checkpoint: object, words: str, hps: HpsSpec, tmp_path: Path) -> None:
    torch.save(checkpoint, tmp_path / "HPS.pt")
    with pytest.raises(WeightsError, match=rf"HPS\.pt: {words}"):
        replace(hps, source=str(tmp_path), file="HPS.pt").load()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\3\4 no zip"])
def test_a_file_that_is_no_pickle_is_named(content: bytes, hps: HpsSpec, tmp_path: Path) -> None:
    (tmp_path / "HPS.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"HPS\.pt: can't be loaded") as caught:
        replace(hps, source=str(tmp_path), file="HPS.pt").load()
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_counted(hps: HpsSpec, tmp_path: Path) -> None:
    weights = torch.load(Path(hps.source) / hps.file, weights_only=True)["state_dict"]
    weights["visual.proj"] = weights["visual.proj"].T
    torch.save({"state_dict": weights}, tmp_path / "HPS.pt")
    with pytest.raises(WeightsError, match=r"1 weights do not fit .*, the first is visual\.proj"):
        replace(hps, source=str(tmp_path), file="HPS.pt").load()


def test_a_pickle_that_runs_code_is_refused(hps: HpsSpec, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {"logit_scale": Malicious()}}, tmp_path / "HPS.pt")
    with pytest.raises(WeightsError, match=r"HPS\.pt"):
        replace(hps, source=str(tmp_path), file="HPS.pt").load()
    assert not (tmp_path / "ran").exists()


def test_an_unknown_architecture_is_named_with_the_nearest(hps: HpsSpec) -> None:
    with pytest.raises(ConfigError, match=r"architecture: no 'ViT-H14' in open_clip; did you mean 'ViT-H-14'"):
        replace(hps, architecture="ViT-H14").load()
    with pytest.raises(WeightsError, match="local-dir:/nowhere"):
        replace(hps, architecture="local-dir:/nowhere").load()


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_embedding_without_a_direction_names_the_sample(
    value: float, hps: HpsSpec, dogs: list[Path], tmp_path: Path
) -> None:
    weights = torch.load(Path(hps.source) / hps.file, weights_only=True)["state_dict"]
    weights["visual.proj"].fill_(value)
    torch.save({"state_dict": weights}, tmp_path / "HPS.pt")
    broken = HpsV2(encoder=replace(hps, source=str(tmp_path), file="HPS.pt"))
    with pytest.raises(MetricError, match=r"HPSv2 of sample s7 .*is nan"):
        broken.score([ScoreItem("s7", dogs[0], (), "a dog", "dog")])


def test_the_two_versions_are_told_apart(hps: HpsSpec) -> None:
    other = replace(hps, file="HPS_v2.1_compressed.pt")
    ((name, digest),) = hps.weights().items()
    assert name == f"{hps.source}/HPS_v2_compressed.pt"
    assert digest.startswith("sha256:")
    assert digest not in other.weights().values()
    assert hps.key != other.key
