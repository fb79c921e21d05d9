"""The choices of a protocol: pairing, references, text, scale."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders.clip_twin import ClipTwin
from PIL import Image, ImageOps
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPModel, CLIPProcessor

from knowcusbench.benchmark.types import Concept
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.errors import ConfigError, MetricError
from knowcusbench.metrics.base import ScoreItem, text_of
from knowcusbench.metrics.ceiling import real_image_ceiling
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_t import ClipT
from knowcusbench.metrics.copies import Copies
from knowcusbench.metrics.protocol import ReferencePairing, ReferenceSplit, TextForm, scaled_cosine
from knowcusbench.metrics.retrieval import ConceptRetrieval
from knowcusbench.toybox.models.clip_transformers import save_clip_transformers

BEACH = ScoreItem(
    "s", Path("i.png"), (), "a photo of {} on the beach", "dog", phrase="my birthday gift", subject="sks dog"
)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (TextForm.class_noun, "a photo of dog on the beach"),
        (TextForm.phrase, "a photo of my birthday gift on the beach"),
        (TextForm.stripped, "a photo of dog on the beach"),
        (TextForm.background, "a photo on the beach"),
    ],
)
def test_the_text_of_each_form(form: TextForm, text: str) -> None:
    assert text_of(BEACH, form) == text


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("a {} in the snow", "in the snow"),
        ("{} next to a red ball", "next to a red ball"),
        ("A cat beside the {}.", "A cat beside."),
        ("an oil painting of the {}, at night", "an oil painting, at night"),
    ],
)
def test_the_background_is_the_prompt_without_the_concept(prompt: str, text: str) -> None:
    assert text_of(replace(BEACH, prompt=prompt), TextForm.background) == text


def test_only_the_rare_token_is_stripped() -> None:
    assert (
        text_of(replace(BEACH, subject="my sks of risks"), TextForm.stripped) == "a photo of my of risks on the beach"
    )


@pytest.mark.parametrize("token", ["sks", "<new1>", "<new1> <new2>", "[V]", "[v1]", "  sks  "])
def test_rare_tokens_are_stripped_from_subjects_and_from_prompts_in_words_of_their_own(token: str) -> None:
    of_subject = replace(BEACH, subject=f"{token} dog")
    verbatim = replace(BEACH, prompt=f"a photo of {token} dog, on the sks-free beach")
    assert text_of(of_subject, TextForm.stripped) == "a photo of dog on the beach"
    assert text_of(verbatim, TextForm.stripped) == "a photo of dog, on the sks-free beach"
    assert text_of(verbatim, TextForm.class_noun) == verbatim.prompt


def test_a_prompt_without_a_place_for_the_concept_is_the_text() -> None:
    assert {text_of(replace(BEACH, prompt="a red {dog}"), form) for form in TextForm} == {"a red {dog}"}


@pytest.mark.parametrize(
    ("item", "form"),
    [
        (replace(BEACH, prompt="{}"), TextForm.background),
        (replace(BEACH, phrase=""), TextForm.phrase),
        (replace(BEACH, subject="sks"), TextForm.stripped),
    ],
)
def test_a_text_that_is_not_known_is_an_error_that_names_the_sample(item: ScoreItem, form: TextForm) -> None:
    with pytest.raises(MetricError, match=rf"sample s: .*form {form}; choose another protocol.text_form"):
        text_of(item, form)


def test_pairings_against_a_double_loop(clip: ClipSpec, twin: ClipTwin, dogs: list[Path], ducks: list[Path]) -> None:
    items = [ScoreItem(str(n), image, tuple(dogs), "", "dog") for n, image in enumerate(ducks)]
    generated = twin.images([Image.open(file) for file in ducks])
    real = twin.images([Image.open(file) for file in dogs])
    expected: dict[ReferencePairing, list[float]] = {pairing: [] for pairing in ReferencePairing}
    for one in generated:
        cosines = []
        for other in real:
            cosines.append(sum(float(a) * float(b) for a, b in zip(one, other, strict=True)))
        expected[ReferencePairing.all].append(sum(cosines) / len(cosines))
        expected[ReferencePairing.nearest].append(sorted(cosines)[-1])
        expected[ReferencePairing.single].append(cosines[0])
    for pairing in ReferencePairing:
        scores = ClipI(encoder=clip, pairing=pairing).score(items)
        np.testing.assert_allclose([score.value for score in scores], expected[pairing], atol=1e-5)


def test_references_of_each_split(clip: ClipSpec, dogs: list[Path], ducks: list[Path]) -> None:
    item = ScoreItem("s", ducks[0], tuple(dogs[:3]), "", "dog", held_out=tuple(dogs[3:5]))
    values = {split: ClipI(encoder=clip, references=split).score([item])[0].value for split in ReferenceSplit}
    assert values[ReferenceSplit.all] == pytest.approx(
        (3 * values[ReferenceSplit.train] + 2 * values[ReferenceSplit.held_out]) / 5
    )
    assert values[ReferenceSplit.train] != pytest.approx(values[ReferenceSplit.held_out], abs=1e-5)


def test_a_split_without_images_is_refused_before_anything_is_made(clip: ClipSpec, dog: Concept) -> None:
    metric = ClipI(encoder=clip, references=ReferenceSplit.held_out)
    with pytest.raises(ConfigError, match=rf"clip_i: needs 1 .*held_out, and {dog.name} has 0; change grid.held_out"):
        metric.check([dog])
    metric.check([dog.holding_out(1)])


def test_holding_out_takes_the_last_images_and_changes_the_digest(dog: Concept) -> None:
    held = dog.holding_out(2)
    assert (*held.images, *held.held_out) == dog.images
    assert len(held.held_out) == 2
    assert held.images_digest != dog.images_digest
    assert dog.holding_out(0) == dog


def test_the_ceiling_of_held_out_references_compares_shown_ones_with_them(
    clip: ClipSpec, twin: ClipTwin, dog: Concept
) -> None:
    held = dog.holding_out(2)
    ceiling = real_image_ceiling(ClipI(encoder=clip, references=ReferenceSplit.held_out), held, {})
    shown = twin.images([Image.open(file) for file in held.images])
    kept = twin.images([Image.open(file) for file in held.held_out])
    assert ceiling == pytest.approx(float((shown @ kept.T).mean()), abs=1e-5)


@pytest.mark.parametrize(("angle", "clamped"), [(60.0, 1.25), (120.0, 0.0)])
def test_a_clamped_cosine_is_clipscores(angle: float, clamped: float) -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    assert scaled_cosine(one, other, 2.5, clamp=True) == pytest.approx(clamped, abs=1e-6)
    assert scaled_cosine(one, other, 2.5) == pytest.approx(2.5 * np.cos(np.radians(angle)), abs=1e-6)


def test_clip_t_in_the_form_of_clipscore_is_that_of_the_formula(
    clip: ClipSpec, twin: ClipTwin, dogs: list[Path]
) -> None:
    items = [ScoreItem(str(n), file, (), "a {} in a car", "dog", subject="sks dog") for n, file in enumerate(dogs)]
    scores = ClipT(encoder=clip, scale=2.5, clamp=True, text_form=TextForm.stripped).score(items)
    cosines = (twin.images([Image.open(file) for file in dogs]) * twin.texts(["a dog in a car"])).sum(axis=1)
    np.testing.assert_allclose([score.value for score in scores], 2.5 * np.maximum(cosines, 0), atol=1e-5)


class Unwrapped(CLIPModel):
    """Features as returned by transformers before version 5, which torchmetrics expects."""

    def get_image_features(self, *inputs: Any) -> torch.Tensor:  # type: ignore[override]
        return super().get_image_features(*inputs).pooler_output

    def get_text_features(self, *inputs: Any) -> torch.Tensor:  # type: ignore[override]
        return super().get_text_features(*inputs).pooler_output


def test_torchmetrics_clipscore_is_clip_t_times_a_hundred(encoders: Path, dogs: list[Path], tmp_path: Path) -> None:
    directory = tmp_path / "clip_transformers"
    save_clip_transformers(encoders / "clip", directory)
    theirs = CLIPScore(
        model_name_or_path=lambda: (Unwrapped.from_pretrained(directory), CLIPProcessor.from_pretrained(directory))
    )
    ours = TransformersClipSpec(source=str(directory), device="cpu")
    values = []
    for number, file in enumerate(dogs):
        # Already of the model's input size: torchmetrics resizes tensors, with other rounding.
        image = ImageOps.fit(Image.open(file), (64, 64))
        image.save(tmp_path / "image.png")
        text = f"a dog in place {number}"
        item = ScoreItem("s", tmp_path / "image.png", (), text, "dog")
        (score,) = ClipT(encoder=ours, scale=100, clamp=True).score([item])
        values.append(score.value)
        wanted = theirs(torch.from_numpy(np.array(image)).permute(2, 0, 1), text)
        assert score.value == pytest.approx(wanted.item(), abs=1e-3)
        theirs.reset()
    assert max(values) > 0


def test_retrieval_is_the_nearest_mean_by_hand(
    clip: ClipSpec, twin: ClipTwin, dogs: list[Path], ducks: list[Path]
) -> None:
    gallery = {"dog": tuple(dogs[:3]), "duck": tuple(ducks[:2])}
    items = [ScoreItem(f.name, f, gallery["dog"], "", "dog", concept="dog", gallery=gallery) for f in (*dogs, *ducks)]
    means = {name: twin.images([Image.open(f) for f in files]).mean(axis=0) for name, files in gallery.items()}
    wanted = []
    for item in items:
        (image,) = twin.images([Image.open(item.image)])
        cosines = {name: image @ mean / np.sqrt(mean @ mean) for name, mean in means.items()}
        wanted.append(float(cosines["dog"] > cosines["duck"]))
    scores = ConceptRetrieval(encoder=clip).score(items)
    assert [score.value for score in scores] == wanted
    assert 0 < sum(wanted) < len(wanted)


def test_retrieval_needs_something_to_tell_apart(clip: ClipSpec, dog: Concept) -> None:
    with pytest.raises(ConfigError, match="needs two concepts"):
        ConceptRetrieval(encoder=clip).check([dog])


def test_a_copy_is_closer_to_a_reference_than_they_are_to_each_other(
    clip: ClipSpec, twin: ClipTwin, dogs: list[Path], ducks: list[Path]
) -> None:
    references = tuple(dogs[:3])
    items = [ScoreItem(f.name, f, references, "", "dog") for f in (dogs[0], *dogs[3:], *ducks)]
    real = twin.images([Image.open(f) for f in references])
    bar = max(float(real[i] @ real[j]) for i in range(3) for j in range(i))
    wanted = [float(max(float(row) for row in real @ twin.images([Image.open(item.image)])[0]) > bar) for item in items]
    scores = Copies(encoder=clip).score(items)
    assert [score.value for score in scores] == wanted
    assert wanted[0] == 1
    assert 0 in wanted


def test_references_that_are_copies_of_each_other_do_not_raise_the_bar(
    clip: ClipSpec, dogs: list[Path], tmp_path: Path
) -> None:
    twice = tmp_path / "again.jpg"
    twice.write_bytes(dogs[1].read_bytes())
    item = ScoreItem("copy", dogs[0], (dogs[0], dogs[1], twice), "", "dog")
    assert Copies(encoder=clip, duplicates=0.9999).score([item])[0].value == 1
    assert Copies(encoder=clip, duplicates=1.1).score([item])[0].value == 0


def test_one_reference_sets_no_bar(clip: ClipSpec, dog: Concept, dogs: list[Path]) -> None:
    with pytest.raises(ConfigError, match="copies: needs 2 reference images"):
        Copies(encoder=clip).check([replace(dog, images=dog.images[:1])])
    with pytest.raises(MetricError, match="sample s: one reference"):
        Copies(encoder=clip).score([ScoreItem("s", dogs[0], (dogs[1],), "", "dog")])
