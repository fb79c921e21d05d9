"""Grounding DINO with its own classes and a small random checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
)

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.segmenters.boxes import GroundingDinoBoxes, WholeImageBoxes
from knowcusbench.encoders.segmenters.sam import SamSpec
from knowcusbench.errors import MetricError
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_i_seg import ClipISeg

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "duck", "toy", "plushie"]


@pytest.fixture(scope="session")
def grounding_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in the format of IDEA-Research/grounding-dino-base."""
    directory = tmp_path_factory.mktemp("grounding_dino")
    build_grounding_dino(directory)
    return directory


def build_grounding_dino(directory: Path) -> None:
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": 64,
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 2, 2],
            "window_size": 4,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": len(WORDS),
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=12,
        max_text_len=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        model = GroundingDinoForObjectDetection(config)
        for parameter in model.parameters():  # moves away from the constant boxes of the initialisation
            parameter.data += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(directory)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 192})
    GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(directory)


def test_the_box_is_the_one_with_the_highest_score(grounding_dino: Path, dogs: list[Path]) -> None:
    images = [Image.open(path) for path in dogs[:3]]

    boxes = GroundingDinoBoxes(source=str(grounding_dino), threshold=0.0, device="cpu").load().find(images, "dog")

    model = GroundingDinoForObjectDetection.from_pretrained(grounding_dino).eval()
    processor = GroundingDinoProcessor.from_pretrained(grounding_dino)
    for image, box in zip(images, boxes, strict=True):
        inputs = processor(images=image, text="dog.", return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        best = outputs.logits[0].sigmoid().max(dim=-1).values.argmax()
        x, y, width, height = outputs.pred_boxes[0, best].tolist()
        corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        corners = np.clip(corners, 0, 1) * [image.width, image.height] * 2 if False else np.clip(corners, 0, 1)
        expected = corners * [image.width, image.height, image.width, image.height]
        np.testing.assert_allclose(box, expected, atol=0.05)


def test_a_box_does_not_depend_on_the_other_images(grounding_dino: Path, dogs: list[Path], ducks: list[Path]) -> None:
    finder = GroundingDinoBoxes(source=str(grounding_dino), threshold=0.0, device="cpu").load()
    images = [Image.open(dogs[0]), Image.open(ducks[0]).resize((40, 90))]

    assert finder.find(images, "toy") == [*finder.find(images[:1], "toy"), *finder.find(images[1:], "toy")]


def test_an_image_without_room_is_tried_once_more_and_then_one_line(grounding_dino: Path, monkeypatch) -> None:
    finder = GroundingDinoBoxes(source=str(grounding_dino), threshold=0.0, device="cpu").load()
    image, forward, calls = Image.new("RGB", (40, 30), "red"), type(finder._model).forward, []
    expected = finder.find([image], "dog")

    def full(self, *inputs, **named):
        calls.append(1)
        if len(calls) in fails:
            raise RuntimeError("CUDA error: out of memory")
        return forward(self, *inputs, **named)

    monkeypatch.setattr(type(finder._model), "forward", full)
    fails = {1}
    assert finder.find([image], "dog") == expected
    calls.clear()
    fails = {1, 2}
    with pytest.raises(MetricError, match="no memory is left on cpu for an image in Grounding DINO; score with"):
        finder.find([image], "dog")


def test_no_box_above_the_threshold_falls_back_to_the_whole_image_and_says_so(
    grounding_dino: Path, encoders: Path, clip: ClipSpec, dogs: list[Path]
) -> None:
    boxes = GroundingDinoBoxes(source=str(grounding_dino), threshold=1.0, device="cpu")
    segmenter = SamSpec(source=str(encoders / "sam"), boxes=boxes, device="cpu")
    item = ScoreItem("s", dogs[0], tuple(dogs[1:3]), "", "dog")

    (score,) = ClipISeg(encoder=clip, segmenter=segmenter).score([item])

    assert score.note == "whole image: no box found for 'dog'; 2 of 2 references whole"
    assert score.value == pytest.approx(ClipI(encoder=clip).score([item])[0].value, abs=1e-5)
    assert set(segmenter.weights()) == {str(grounding_dino), str(encoders / "sam")}


def test_the_whole_image_box_encloses_the_image() -> None:
    assert WholeImageBoxes().load().find([Image.new("RGB", (30, 20))], "dog") == [(0, 0, 30, 20)]
