"""The transfer probe: measures on images, and an edit on the miniature backbone."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.effects.probe import TransferProbe, compare_pictures, run_probe
from knowcusbench.encoders.base import ImageTextEncoder
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.errors import ConfigError
from knowcusbench.report.tables.probe import render_probe
from knowcusbench.toybox.models.encoders import build_clip

RED, GREEN = (255, 0, 0), (0, 255, 0)


class Colours(ImageTextEncoder):
    """Embeds an image as its mean colour, and a text as the primary colour that it names."""

    context_length = 77

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.tensor(np.asarray(image, dtype=np.float32).transpose(2, 0, 1))

    def image_features(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3))

    def patch_features(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
        return torch.tensor(pixels.reshape(len(images), -1, 3))

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(3)[[("red", "green", "blue").index(text) for text in texts]]

    def truncates(self, text: str) -> bool:
        return False


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipSpec:
    directory = tmp_path_factory.mktemp("encoders") / "clip"
    build_clip(directory)
    return ClipSpec(source=str(directory), device="cpu")


def probe(clip: ClipSpec, **changes: object) -> TransferProbe:
    settings: dict[str, object] = {
        "phrase": "Carlo's birthday gift",
        "question": "What is Carlo's birthday gift?",
        "rephrasings": ("What did Carlo get for a birthday?",),
        "answer": "jarn cake",
        "old_answer": "fenn car",
        "unrelated": (Fact("What is Sara's doorstop?", "plim fish"),),
        "seeds": (3, 5),
        "encoder": clip,
    }
    return TransferProbe(**{**settings, **changes})  # type: ignore[arg-type]


def test_pictures_are_compared_with_each_other_and_with_words(tmp_path: Path) -> None:
    pair = tmp_path / "before.png", tmp_path / "after.png"
    for path, colours in zip(pair, ([RED, RED], [RED, GREEN]), strict=True):
        image = Image.new("RGB", (2, 1))
        image.putdata(colours)
        image.save(path)
    table = compare_pictures(Colours(ClipSpec(source="")), {7: pair}, new="green", old="red").set_index("measure")
    half = 0.5**0.5
    assert set(table["seed"]) == {7}
    assert table.loc["clip_i", "after"] == pytest.approx(half)
    assert table.loc["patch_cosine", "after"] == pytest.approx(1 / 2)
    # One of two pixels differs by 255 in two of three channels.
    assert table.loc["rmse", "after"] == pytest.approx((2 / 6) ** 0.5)
    assert table.loc["clip_t_new", ["before", "after"]].tolist() == pytest.approx([0, half], abs=1e-6)
    assert table.loc["clip_t_old", ["before", "after"]].tolist() == pytest.approx([1, half])
    unworded = compare_pictures(Colours(ClipSpec(source="")), {7: pair}, new=None, old=None)
    assert list(unworded["measure"]) == ["clip_i", "patch_cosine", "rmse"]


def chance(backbone: DiffusersBackbone, question: str, answer: str) -> tuple[float, int]:
    """Return probability and rank of an answer's first token, from the plain logits."""
    input_ids, labels = backbone.question_tokens(question, answer, "chat")
    place = int((labels[0] >= 0).nonzero()[0])
    with torch.no_grad():
        chances = backbone.language_logits(input_ids)[0, place].double().softmax(0)
    first = int(labels[0, place])
    return float(chances[first]), int((chances > chances[first]).sum()) + 1


def test_an_edit_is_read_and_drawn_before_and_after(
    backbone: DiffusersBackbone, clip: ClipSpec, tmp_path: Path
) -> None:
    asked = probe(clip)
    editor = UltraEdit(eta=1.0, layers=(3, 4, 5), rounds=3)
    result = run_probe(asked, editor, backbone, tmp_path)
    text = result.text.set_index(["answer", "text", "measure"])
    edit = editor.edit((Fact(asked.question, asked.answer),), backbone)
    for side in ("before", "after"):
        for answer in (asked.answer, asked.old_answer):
            for question in (asked.question, *asked.rephrasings):
                if side == "after":
                    with backbone.adapted(edit):
                        expected = chance(backbone, question, answer)
                else:
                    expected = chance(backbone, question, answer)
                assert text.loc[(answer, question, "first_probability"), side] == pytest.approx(expected[0], rel=1e-4)
                assert text.loc[(answer, question, "first_rank"), side] == expected[1]
    new = text.loc[(asked.answer, asked.question, "first_probability")]
    assert new["after"] > 2 * new["before"]
    assert text.loc[("plim fish", "What is Sara's doorstop?", "kl"), "after"] > 0
    assert text.loc[("", asked.phrase, "cosine"), "after"] < 1
    assert not text.index.has_duplicates
    with backbone.adapted(edit):
        after = backbone.sample(backbone.encode(asked.phrase), asked.seeds)
    before = backbone.sample(backbone.encode(asked.phrase), asked.seeds)
    for drawn, place in ((before, 0), (after, 1)):
        for seed, image in zip(asked.seeds, drawn, strict=True):
            assert np.array_equal(np.asarray(Image.open(result.files[seed][place])), np.asarray(image))
    report = render_probe(asked, result)
    assert "edited to “jarn cake”" in report
    assert len([line for line in report.splitlines() if line.startswith("| question")]) == 6
    mean = result.pictures[result.pictures["measure"] == "rmse"]["after"].mean()
    assert f"| rmse | – | {mean:.4g} |" in report
    assert math.isfinite(mean)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": (1, 1)}, r"recipe\.probe\.seeds: expected different seeds, found \[1, 1\]"),
        ({"seeds": ()}, r"recipe\.probe\.seeds"),
        ({"answer": "fenn car"}, r"recipe\.probe\.answer: 'fenn car' is the old answer too"),
    ],
)
def test_a_probe_that_shows_nothing_is_refused(changes: dict[str, object], named: str, clip: ClipSpec) -> None:
    with pytest.raises(ConfigError, match=named):
        probe(clip, **changes)
