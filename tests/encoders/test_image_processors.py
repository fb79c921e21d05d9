"""Pixels of the transformers encoders against numbers computed by the published code.

The constants come from `CLIPImageProcessor` of transformers 4.46.3, as DreamBench++ and PickScore load it (for a
checkpoint's `preprocessor_config.json` as openai/clip-vit-base-patch32 has it).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from knowcusbench.encoders.checkpoint import load_image_processor
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.errors import WeightsError
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.pickscore import PickScore

MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])

PUBLISHED = {
    (331, 250): (0.1928451, 1.458969, 5.947),
    (64, 48): (0.1790961, 1.458771, 3.229),
    (120, 640): (0.1905738, 1.503713, -595.422),
}
"""Width and height of a picture -> mean, mean square and `projection` of its 3 x 224 x 224 pixels. With torchvision the
projections are 5.934, 3.256 and -595.291."""


def picture(width: int, height: int) -> Image.Image:
    """Return waves of three lengths and sharp edges, which tell resampling filters apart."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = 128 + 100 * np.sin(x / 3.1 + y / 7.7), 128 + 100 * np.cos(x / 11.3) * np.sin(y / 2.3)
    channels = [*waves, 255.0 * ((x // 5 + y // 9) % 2)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def projection(pixels: np.ndarray) -> float:
    place = np.arange(224)
    return float((pixels * np.cos(place)[None, :, None] * np.sin(place / 3)[None, None]).sum())


def by_hand(image: Image.Image, size: int) -> np.ndarray:
    """Return (3, size, size): Pillow's bicubic to `size` on the shortest side, the centre, and the normalisation."""
    width, height = image.size
    short = min(width, height)
    resized = image.resize((int(size * width / short), int(size * height / short)), Image.Resampling.BICUBIC)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    pixels = np.asarray(resized.crop((left, top, left + size, top + size))) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A directory with the image processor file of openai/clip-vit-base-patch32."""
    said = {
        "crop_size": 224,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": MEAN.tolist(),
        "image_std": STD.tolist(),
        "resample": 3,
        "size": 224,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    return tmp_path


@pytest.mark.parametrize("size", PUBLISHED)
def test_pixels_are_those_of_the_published_code(size: tuple[int, int], published: Path) -> None:
    processor = load_image_processor("clip", published, "pil")
    pixels = processor(images=picture(*size), return_tensors="pt")["pixel_values"][0].numpy().astype(np.float64)
    found = pixels.mean(), (pixels**2).mean(), projection(pixels)
    assert found == pytest.approx(PUBLISHED[size], abs=1e-3)
    assert found[:2] == pytest.approx(PUBLISHED[size][:2], abs=1e-6)
    np.testing.assert_allclose(pixels, by_hand(picture(*size), 224), atol=1e-5)
    other = load_image_processor("clip", published, "torchvision")(images=picture(*size), return_tensors="pt")
    assert abs(projection(other["pixel_values"][0].numpy().astype(np.float64)) - PUBLISHED[size][2]) > 0.01


@torch.no_grad()
def test_scores_are_those_of_the_model_for_pixels_by_pillow(preference: TransformersClipSpec, tmp_path: Path) -> None:
    """Compare PickScore, and CLIP-I as in DreamBench++'s code: 100 times the cosine."""
    files = [tmp_path / f"{width}.png" for width, _ in PUBLISHED]
    for file, size in zip(files, PUBLISHED, strict=True):
        picture(*size).save(file)
    items = [ScoreItem(file.stem, file, (files[0],), "a photo of a red fish", "fish") for file in files]

    picked = PickScore(encoder=preference).score(items)
    alike = ClipI(encoder=preference, pairing="single", scale=100.0).score(items)

    model = CLIPModel.from_pretrained(preference.source).eval()
    pixels = torch.from_numpy(np.stack([by_hand(picture(*size), 64) for size in PUBLISHED])).float()
    encoder = preference.load()
    features = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output)
    text = encoder.encode_texts(["a photo of a red fish"])[0]
    logits = model.logit_scale.exp() * features @ text
    np.testing.assert_allclose([score.value for score in picked], logits, atol=1e-4)
    np.testing.assert_allclose([score.value for score in alike], 100 * features @ features[0], atol=1e-4)


def test_a_processor_that_resizes_with_something_else_is_refused(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers falls back to another backend with a warning."""
    from transformers import AutoImageProcessor

    wanted = AutoImageProcessor.from_pretrained(published, backend="torchvision")
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda *words, **names: wanted)
    with pytest.raises(WeightsError, match=r"laion/clip: .*backend 'pil'"):
        load_image_processor("laion/clip", published, "pil")
