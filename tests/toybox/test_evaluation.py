"""The figures of the embedded world's card."""

import pytest
import torch
from torch import Tensor

from knowcusbench.adaptation.editor import Fact
from knowcusbench.backbone.qwen_image import QwenImage
from knowcusbench.toybox.card import table
from knowcusbench.toybox.evaluation import answers_right, autoencoder_figures, identity_scores
from knowcusbench.toybox.oracle import truth
from knowcusbench.toybox.scene import Placed, Scene, Thing

CAR = Thing(kind="car", colour="red", pattern="dotted", trim="blue", accent="green")
STAR = Thing(kind="star", colour="white")


def sight(thing: Thing, **changes: str) -> dict[str, str]:
    return {**truth(Scene(main=Placed(thing=thing, left=2, top=20, size=30), background="snow")), **changes}


def test_identity_is_the_share_of_attributes_and_of_pictures_with_all() -> None:
    sights = [sight(CAR), sight(CAR, colour="pink"), sight(STAR, background="night"), sight(STAR, kind="moon")]
    share, exact = identity_scores(sights, [CAR, CAR, STAR, STAR])
    assert share == pytest.approx((1 + 4 / 5 + 1 + 4 / 5) / 4)
    assert exact == 2 / 4


def test_a_right_answer_is_the_most_likely_first_token(backbone: QwenImage, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = backbone._pipeline.tokenizer
    zam = tokenizer("zam")["input_ids"][0]

    def say_zam(input_ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.full_like(input_ids, zam), len(tokenizer)).float()

    monkeypatch.setattr(backbone, "language_logits", say_zam)
    facts = [Fact("What is it?", answer) for answer in ("zam house", "blik cake", "zam", "house zam")]
    assert answers_right(backbone, facts) == 0.5


def test_the_reconstruction_of_untrained_weights_is_poor(backbone: QwenImage) -> None:
    assert 0 < autoencoder_figures(backbone, 4)["VAE reconstruction, dB"] < 20


def test_a_table() -> None:
    assert list(table(("a", "b"), [(1, "x")])) == ["| a | b |", "| --- | --- |", "| 1 | x |"]
