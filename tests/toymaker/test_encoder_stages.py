"""The stages of the metric encoders, without their training."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.encoders.segmenters.boxes import WholeImageBoxes
from knowcusbench.encoders.segmenters.sam import SamSpec
from knowcusbench.toybox.models.encoders import clip_model, sam_model, save_clip, save_pickscore, save_sam, world_texts
from knowcusbench.toymaker.clip import (
    PROMPTS,
    SimpleTokenizer,
    also_true,
    attribute_losses,
    contrast,
    embed_texts,
    forget_words,
    normalized,
    tokenize,
)
from knowcusbench.toymaker.instruments import Said, to_tensor
from knowcusbench.toymaker.preference import from_clip, preference_loss
from knowcusbench.toymaker.segmenter import iou, mask_losses

TEXTS = ["a red toy on the beach", "pixel art of a tiny white checked fish with a red tail and black fins", "sks"]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "clip"
    save_clip(clip_model(), directory)
    return directory


def test_the_preference_model_begins_as_the_clip(clip: Path, tmp_path: Path, images: list[Image.Image]) -> None:
    """open_clip's weights give the same embeddings in transformers, also with a part of the vocabulary."""
    save_pickscore(from_clip(clip), tmp_path / "pickscore")
    ours = TransformersClipSpec(
        source=str(tmp_path / "pickscore"), processor=str(tmp_path / "pickscore"), device="cpu"
    ).load()
    theirs = ClipSpec(source=str(clip), device="cpu").load()
    texts = [*TEXTS, *list(world_texts())[::40]]
    assert torch.allclose(ours.encode_texts(texts), theirs.encode_texts(texts), atol=1e-5)
    assert torch.allclose(ours.encode_images(images), theirs.encode_images(images), atol=1e-4)
    assert ours.logit_scale == pytest.approx(math.log(1 / 0.07), abs=1e-3)


def test_texts_and_pictures_are_embedded_as_the_metric_does(clip: Path, images: list[Image.Image]) -> None:
    model = clip_model()
    with torch.no_grad():
        texts = embed_texts(model, tokenize(SimpleTokenizer(), TEXTS))
        pixels = to_tensor([np.asarray(image) for image in images])
        features = model.encode_image(normalized(pixels))
    encoder = ClipSpec(source=str(clip), device="cpu").load()
    assert torch.allclose(texts, encoder.text_features(TEXTS), atol=5e-3)
    assert torch.allclose(
        features, encoder.image_features(torch.stack([encoder.preprocess(image) for image in images])), atol=5e-3
    )


def test_sam_as_it_is_saved_is_what_the_metric_loads(tmp_path: Path, images: list[Image.Image]) -> None:
    save_sam(sam_model(), tmp_path / "sam")
    segmenter = SamSpec(source=str(tmp_path / "sam"), boxes=WholeImageBoxes(), device="cpu").load()
    assert [one.mask.shape for one in segmenter.segment(images, "toy")] == [(64, 64)] * 3


def test_only_the_worlds_words_are_remembered() -> None:
    model, tokenizer = clip_model(), SimpleTokenizer()
    before = model.token_embedding.weight.detach().clone()
    forget_words(model, tokenizer)
    kept = (model.token_embedding.weight == before).all(dim=1)
    assert kept[[*tokenizer.encode("a striped thing beside Anna's doorstop"), 49406, 49407]].all()
    assert 200 < kept.sum() < 400
    assert not model.token_embedding.weight[~kept].any()


def test_sentences_that_are_true_of_another_picture_do_not_count_against_it() -> None:
    red = frozenset({("colour", "red"), ("kind", "toy")})
    blue = frozenset({("colour", "blue"), ("kind", "toy")})
    said = [Said("a red toy", red), Said("a toy", frozenset({("kind", "toy")}))]
    ignored = also_true([red, blue], said)
    assert ignored.tolist() == [[False, True], [False, False]]
    logits = torch.tensor([[1.0, 9.0], [2.0, 3.0]])
    rows = 0 + math.log(1 + math.exp(-1))
    columns = math.log(1 + math.exp(1)) + 0
    assert contrast(logits, ignored).item() == pytest.approx((rows / 2 + columns / 2) / 2)


def test_attributes_are_told_apart_among_their_own_prompts() -> None:
    count = sum(map(len, PROMPTS.values()))
    truth = frozenset({("kind", "toy"), ("colour", "red"), ("pattern", "plain"), ("background", "room")})
    losses = attribute_losses(torch.zeros(2, count), [truth, truth])
    assert losses["kind"].item() == pytest.approx(math.log(18))
    assert losses["pattern"].item() == pytest.approx(math.log(4))
    assert losses["second kind"].item() == 0
    sure = torch.zeros(1, count)
    sure[0, list(PROMPTS["kind"]).index("toy")] = 50
    assert attribute_losses(sure, [truth])["kind"].item() == pytest.approx(0, abs=1e-6)


def test_a_preference_is_the_softmax_over_two_pictures() -> None:
    scores = torch.tensor([[2.0, 1.0], [0.5, 3.0]])
    expected = -torch.log_softmax(scores, dim=1)[:, 0].mean()
    assert preference_loss(scores[:, 0], scores[:, 1]).item() == pytest.approx(float(expected))


def test_losses_of_masks_by_hand() -> None:
    masks = torch.zeros(1, 1, 64, 64)
    masks[..., :32, :] = 1
    right, wrong = (masks * 2 - 1) * 50, (1 - masks * 2) * 50
    logits = torch.stack([right, wrong], dim=2)
    losses = mask_losses(logits, torch.tensor([[[1.0, 0.5]]]), masks)
    assert losses["dice"].item() == pytest.approx((0 + 1) / 2, abs=1e-3)
    assert losses["iou"].item() == pytest.approx((0 + 0.25) / 2)
    assert losses["pixels"].item() == pytest.approx(5 * 50 / 2, rel=1e-3)
    ones = np.ones((4, 4), dtype=np.bool_)
    assert iou(ones, np.tri(4, dtype=np.bool_)) == 10 / 16
