"""An image that can't be scored gets a row with the reason and no value, and no other row is lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from knowcusbench.errors import ImageError
from knowcusbench.metrics.base import Metric, Score, ScoreItem
from knowcusbench.stages.score import ScoreWorker
from knowcusbench.storage.images import read_image


@dataclass(frozen=True, kw_only=True)
class Brightness(Metric):
    """The mean of the pixels of an image and its references."""

    name: ClassVar[str] = "brightness"
    title: ClassVar[str] = "Brightness"

    def score(self, items: Sequence[ScoreItem]) -> list[Score]:
        return [Score(float(np.mean([np.asarray(read_image(f)) for f in (i.image, *i.references)]))) for i in items]


@pytest.fixture
def items(tmp_path: Path) -> list[ScoreItem]:
    made = []
    for number in range(4):
        chunks = PngInfo()
        chunks.add_text("sample", f"{number:016x}")
        pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + np.uint8(number)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", pnginfo=chunks)
        made.append(ScoreItem(f"{number:016x}", tmp_path / f"{number}.png", (), "", ""))
    return made


def test_damaged_and_swapped_images_have_a_note_that_says_what_to_do(items: list[ScoreItem]) -> None:
    (before,) = ScoreWorker(Brightness(), "abc")(items)
    items[1].image.write_bytes(items[1].image.read_bytes()[:60])
    items[2].image.write_bytes(items[3].image.read_bytes())

    (rows,) = ScoreWorker(Brightness(), "abc")(items)

    assert rows["sample_id"].tolist() == [item.sample_id for item in items]
    assert rows["value"].isna().tolist() == [False, True, True, False]
    assert rows["value"][[0, 3]].tolist() == before["value"][[0, 3]].tolist()
    assert rows["note"][[0, 3]].tolist() == ["", ""]
    assert str(items[1].image) in rows["note"][1]
    assert "remove the file, and `knowcusbench bench` draws it again" in rows["note"][1]
    assert f"{items[2].image}: shows sample {items[3].sample_id}" in rows["note"][2]
    assert (rows["stamp"] != before["stamp"]).tolist() == [False, True, True, False]
    assert before["note"].eq("").all()


def test_only_damaged_images_are_no_error_and_a_damaged_reference_is_one(
    items: list[ScoreItem], tmp_path: Path
) -> None:
    items[0].image.write_bytes(b"nothing")
    (rows,) = ScoreWorker(Brightness(), "abc")(items[:1])
    assert rows["value"].isna().all()
    reference = tmp_path / "reference.png"
    reference.write_bytes(b"nothing")
    beside = ScoreItem(items[1].sample_id, items[1].image, (reference,), "", "")
    with pytest.raises(ImageError, match=r"reference\.png"):
        list(ScoreWorker(Brightness(), "abc")([beside]))
