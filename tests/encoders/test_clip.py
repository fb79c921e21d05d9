"""open_clip's CLIP against the same weights in transformers, with torchvision transforms and hand-made tokens."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from encoders.clip_twin import ClipTwin
from PIL import Image
from safetensors.torch import save_file

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.ceiling import real_image_ceiling
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_t import ClipT

WORDS = "a photo of a dog on the beach at sunset"


def opened(paths: list[Path]) -> list[Image.Image]:
    return [Image.open(path) for path in paths]


def test_image_embeddings_are_those_of_transformers_after_torchvision_preprocessing(
    clip: ClipSpec, twin: ClipTwin, dogs: list[Path], ducks: list[Path]
) -> None:
    images = opened([*dogs, *ducks])

    embeddings = clip.load().encode_images(images).numpy()

    np.testing.assert_allclose(embeddings, twin.images(images), atol=1e-5)
    assert embeddings.std(axis=0).max() > 1e-2  # the photographs are told apart


def test_patch_features_are_those_of_transformers(clip: ClipSpec, twin: ClipTwin, dogs: list[Path]) -> None:
    images = opened(dogs)
    expected = twin.patches(images)
    features = replace(clip, batch_size=2).load().patch_features(images).numpy()
    assert features.shape == expected.shape
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_text_embeddings_are_those_of_transformers(clip: ClipSpec, twin: ClipTwin) -> None:
    texts = [WORDS, "A toy duck, 3 times!", WORDS * 20]

    np.testing.assert_allclose(clip.load().encode_texts(texts).numpy(), twin.texts(texts), atol=1e-5)


def test_clip_i_of_four_images_is_the_mean_over_all_references(
    clip: ClipSpec, twin: ClipTwin, dogs: list[Path], ducks: list[Path]
) -> None:
    items = [ScoreItem(str(n), image, tuple(dogs[:4]), "", "dog") for n, image in enumerate(ducks)]
    assert len(items) == 4

    scores = ClipI(encoder=clip).score(items)

    generated, references = twin.images(opened(ducks)), twin.images(opened(dogs[:4]))
    for score, one in zip(scores, generated, strict=True):
        total = 0.0
        for reference in references:
            total += sum(float(a) * float(b) for a, b in zip(one, reference, strict=True))
        assert score.value == pytest.approx(total / 4, abs=1e-5)
        assert score.note == ""


def test_clip_t_is_the_cosine_of_image_and_text_times_the_scale(
    clip: ClipSpec, twin: ClipTwin, dogs: list[Path]
) -> None:
    items = [ScoreItem(str(n), image, (), f"{WORDS} {n}", "dog") for n, image in enumerate(dogs)]

    plain = ClipT(encoder=clip).score(items)
    scaled = ClipT(encoder=clip, scale=100.0).score(items)

    cosines = (twin.images(opened(dogs)) * twin.texts([item.prompt for item in items])).sum(axis=1)
    np.testing.assert_allclose([score.value for score in plain], cosines, atol=1e-5)
    np.testing.assert_allclose([score.value for score in scaled], 100 * cosines, atol=1e-3)


def test_clip_t_notes_a_text_of_more_than_77_tokens_and_no_other(clip: ClipSpec, dogs: list[Path]) -> None:
    # "dog" is one token; the start and end tokens are two more.
    fits, too_long = ("dog " * 75).strip(), ("dog " * 76).strip()
    items = [ScoreItem("s", dogs[0], (), text, "dog") for text in (fits, too_long)]

    whole, cut = ClipT(encoder=clip).score(items)

    assert whole.note == ""
    assert cut.note == "text truncated to 77 tokens"
    assert cut.value == pytest.approx(whole.value, abs=1e-6)


def test_the_ceiling_leaves_one_reference_out_at_a_time(clip: ClipSpec, twin: ClipTwin, dog) -> None:
    ceiling = real_image_ceiling(ClipI(encoder=clip), dog, {})

    features = twin.images(opened(list(dog.images)))
    pairs = [float(features[i] @ features[j]) for i in range(len(features)) for j in range(len(features)) if i != j]
    assert ceiling == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)
    assert ceiling < 1 - 1e-4  # an image is not compared with itself


def test_the_ceiling_of_a_single_reference_is_undefined(clip: ClipSpec, dog) -> None:
    assert np.isnan(real_image_ceiling(ClipI(encoder=clip), replace(dog, images=dog.images[:1]), {}))


def test_preprocessing_is_torchvisions_pixel_by_pixel(clip: ClipSpec, twin: ClipTwin, dogs, ducks) -> None:
    for image in opened([*dogs, *ducks]):
        assert torch.equal(clip.load().preprocess(image), twin.preprocess(image))


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenAI's ViT-B/32 with random weights, in the checkpoint's own format (fp16)."""
    directory = tmp_path_factory.mktemp("full") / "clip"
    directory.mkdir()
    described = open_clip.get_model_config("ViT-B-32-quickgelu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.CLIP(**described)
    preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    described = {"model_cfg": described, "preprocess_cfg": {**preprocess, "interpolation": "bicubic"}}
    (directory / "open_clip_config.json").write_text(json.dumps(described))
    weights = {name: tensor.half() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "open_clip_model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.model
def test_at_full_size_scores_are_those_of_transformers(full_size: Path, dogs: list[Path], ducks: list[Path]) -> None:
    spec, twin = ClipSpec(source=str(full_size), device="cpu"), ClipTwin(full_size)
    assert sum(parameter.numel() for parameter in twin.model.parameters()) == 151_277_313
    generated, real = twin.images(opened(dogs[:2])), twin.images(opened(ducks[:2]))
    items = [ScoreItem(str(n), file, tuple(ducks[:2]), WORDS, "dog") for n, file in enumerate(dogs[:2])]

    images, texts = ClipI(encoder=spec).score(items), ClipT(encoder=spec).score(items)

    np.testing.assert_allclose([score.value for score in images], (generated @ real.T).mean(axis=1), atol=1e-5)
    np.testing.assert_allclose([score.value for score in texts], generated @ twin.texts([WORDS])[0], atol=1e-5)
