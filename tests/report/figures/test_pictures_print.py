import io

import numpy as np
import pytest
from PIL import Image

from knowcusbench.errors import ImageError
from knowcusbench.report.figures.pictures import PictureRow
from knowcusbench.report.figures.pictures_print import WIDTH, picture_figure
from knowcusbench.report.figures.style import write_figure

HOSTILE = ["$x^{2}$ $", r"a\b_{c} %&#", "_x", "x" * 300, "two\nlines", ""]


@pytest.fixture
def red(tmp_path):
    Image.new("RGB", (64, 32), (255, 0, 0)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


@pytest.fixture
def blue(tmp_path):
    Image.new("RGB", (1500, 1500), (0, 0, 255)).save(tmp_path / "blue.png")
    return tmp_path / "blue.png"


def drawn(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_pictures_stand_in_their_columns_in_their_proportions(red, blue):
    pixels = drawn(picture_figure(["a", "b"], [PictureRow("text", [red, blue]), PictureRow("none", [None, red])]))
    assert pixels.shape[1] == WIDTH * 100
    is_red, is_blue = (np.all(pixels == colour, axis=-1) for colour in ((255, 0, 0), (0, 0, 255)))
    rows, columns = np.nonzero(is_red)
    left = columns < 350
    assert np.ptp(columns[left]) == pytest.approx(2 * np.ptp(rows[left]), abs=4)
    assert np.nonzero(is_blue)[1].min() > 345
    # The second red picture is below the blue one, in the same column.
    assert rows[~left].min() > np.nonzero(is_blue)[0].max()
    assert rows[~left].max() < pixels.shape[0]


def test_a_picture_is_stored_no_finer_than_print(blue):
    figure = picture_figure(["a", "b", "c", "d"], [PictureRow("", [blue] * 4)])
    assert max(figure.axes[0].images[0].get_array().shape) < 1100


def test_labels_are_drawn_as_they_are_and_files_do_not_depend_on_the_time(red, tmp_path):
    for run in ("one", "two"):
        figure = picture_figure(HOSTILE, [PictureRow(text, [red] * len(HOSTILE)) for text in HOSTILE])
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert "$x^{2}$ $" in texts
        assert max(map(len, texts)) < 150
        write_figure(tmp_path / run, "pictures", figure)
    for kind in ("png", "pdf"):
        one, two = ((tmp_path / run / f"pictures.{kind}").read_bytes() for run in ("one", "two"))
        assert one == two
        assert one.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[kind])


def test_a_damaged_picture_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"bad\.png"):
        picture_figure(["a"], [PictureRow("", [tmp_path / "bad.png"])])
