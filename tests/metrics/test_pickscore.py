"""PickScore against transformers' own logits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPProcessor

from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.errors import WeightsError
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.pickscore import PickScore


@torch.no_grad()
def test_pickscore_is_the_logit_of_the_pair(preference: TransformersClipSpec, dogs: list[Path]) -> None:
    texts = [f"a dog{' with a hat' * n}" for n in range(len(dogs))]
    items = [ScoreItem(str(n), dogs[n], (), text, "dog") for n, text in enumerate(texts)]

    scores = PickScore(encoder=preference).score(items)

    model = CLIPModel.from_pretrained(preference.source).eval()
    processor = CLIPProcessor.from_pretrained(preference.processor)
    images = [Image.open(path) for path in dogs]
    # As on the model card: texts padded to the longest of the batch.
    inputs = processor(images=images, text=texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    logits = model(**inputs).logits_per_image.diagonal().numpy()
    np.testing.assert_allclose([score.value for score in scores], logits, atol=1e-4)
    assert model.logit_scale.exp() > 10  # the scale is part of the score


@torch.no_grad()
def test_a_text_of_more_than_77_tokens_is_cut_there_and_noted(
    preference: TransformersClipSpec, dogs: list[Path]
) -> None:
    # "dog" and "cat" are one token each; the start and end tokens are two more.
    fits = "dog " * 74 + "cat"
    items = [ScoreItem("s", dogs[0], (), text, "dog") for text in (fits, fits + " and a duck")]

    whole, cut = PickScore(encoder=preference).score(items)

    model = CLIPModel.from_pretrained(preference.source).eval()
    processor = CLIPProcessor.from_pretrained(preference.processor)
    inputs = processor(images=Image.open(dogs[0]), text=fits, return_tensors="pt")
    assert inputs.input_ids.shape == (1, 77)
    assert whole.value == pytest.approx(float(model(**inputs).logits_per_image), abs=1e-4)
    assert cut.value == pytest.approx(whole.value, abs=1e-5)
    assert (whole.note, cut.note) == ("", "text truncated to 77 tokens")


def test_a_checkpoint_that_lacks_weights_is_refused(encoders: Path, tmp_path: Path) -> None:
    for file in (encoders / "pickscore").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    spec = TransformersClipSpec(source=str(tmp_path), processor=str(tmp_path), device="cpu")

    with pytest.raises(WeightsError, match=r"lacks 1 weights .*visual_projection"):
        spec.load()


def test_the_processor_may_lie_elsewhere(
    preference: TransformersClipSpec, encoders: Path, dogs: list[Path], tmp_path: Path
) -> None:
    for file in (encoders / "pickscore").glob("*.json"):
        if file.name != "config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    elsewhere = replace(preference, processor=str(tmp_path))
    item = ScoreItem("s", dogs[0], (), "a dog", "dog")

    (score,), (expected,) = (PickScore(encoder=one).score([item]) for one in (elsewhere, preference))

    assert score.value == pytest.approx(expected.value, abs=1e-5)
    assert set(elsewhere.weights()) == {str(tmp_path), preference.source}
