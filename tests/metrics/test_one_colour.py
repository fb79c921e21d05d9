"""Images of one colour are scored, with a note."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.metrics.one_colour import score_and_note


@dataclass(frozen=True, kw_only=True)
class Constant(Metric):
    note: str = ""

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        return [Score(0.5, self.note, {"a": 1.0}) for _ in items]


def item(path: Path, image: Image.Image) -> ScoreItem:
    image.save(path)
    return ScoreItem(path.stem, path, (), "{}", "dog")


@pytest.mark.parametrize(("own", "joined"), [("", "{}"), ("text cut", "text cut; {}")])
def test_a_picture_of_one_colour_has_a_note_beside_the_metrics_own(tmp_path: Path, own: str, joined: str) -> None:
    almost = Image.new("RGB", (16, 16), "red")
    almost.putpixel((3, 4), (254, 0, 0))
    pictures = {
        "black.png": Image.new("RGB", (16, 16)),
        "grey.jpg": Image.new("L", (16, 16), 77),
        "almost.png": almost,
    }
    items = [item(tmp_path / name, image) for name, image in pictures.items()]
    scores = score_and_note(Constant(note=own), items)
    assert [score.note for score in scores] == [joined.format("picture of one colour")] * 2 + [own]
    assert [(score.value, score.details) for score in scores] == [(0.5, {"a": 1.0})] * 3
    Image.new("RGB", (16, 16)).save(items[2].image)
    assert score_and_note(Constant(note=own), items)[2].note != own, "the file changed"
