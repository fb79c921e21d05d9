"""Overlays of masks: the part that a metric ignored is dark, with a line along the subject's edge."""

import os
from dataclasses import replace

import numpy as np
from PIL import Image

from knowcusbench.report.pages.masks import AROUND, LINE, SUBJECT, WIDTH, MaskFolder, overlay, write_overlays


def test_the_subject_stays_clear_within_a_line_that_lies_on_it():
    mask = np.zeros((40, 50), dtype=np.bool_)
    mask[10:30, 20:45] = True
    found = overlay(mask)
    np.testing.assert_array_equal(found == AROUND, ~mask)
    clear = np.zeros_like(mask)
    clear[10 + WIDTH : 30 - WIDTH, 20 + WIDTH : 45 - WIDTH] = True
    np.testing.assert_array_equal(found == SUBJECT, clear)
    np.testing.assert_array_equal(found == LINE, mask & ~clear)


def test_there_is_no_line_where_the_picture_ends():
    mask = np.ones((40, 50), dtype=np.bool_)
    assert (overlay(mask) == SUBJECT).all()
    mask[:, 25:] = False
    assert (overlay(mask)[:, : 25 - WIDTH] == SUBJECT).all()


def test_an_overlay_has_the_proportions_of_its_mask_and_is_small(tmp_path):
    sources = []
    for height, width in ((64, 48), (700, 500), (3000, 1500)):
        rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        sources.append(tmp_path / f"{height}.png")
        Image.fromarray(rows**2 + columns**2 < 0.5).save(sources[-1])
    write_overlays(sources, tmp_path / "made")
    sizes = []
    for source in sources:
        with Image.open(tmp_path / "made" / source.name) as made:
            sizes.append(made.size)
            alpha = np.asarray(made.convert("RGBA"))[..., 3]
        assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 0
        assert 0 < alpha[0, 0] < 255
        assert alpha.max() == 255
        assert (tmp_path / "made" / source.name).stat().st_size < 6000
        covered = np.asarray(Image.open(source)).mean()
        assert abs((alpha != alpha[0, 0]).mean() - covered) < 0.005
    assert sizes == [(384, 512), (500, 700), (512, 1024)]


def test_a_damaged_mask_has_no_overlay_and_the_others_do(tmp_path):
    (tmp_path / "a.png").write_bytes(b"damaged")
    Image.fromarray(np.ones((4, 4), dtype=np.bool_)).save(tmp_path / "b.png")
    write_overlays([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "made")
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["b.png"]


def test_what_was_exported_stays_where_the_cache_is_another(pages):
    folder, made, _ = pages
    (layer,) = made.gallery.masks
    here = MaskFolder(layer, folder / "gallery")
    elsewhere = MaskFolder(replace(layer, directory=None, names=frozenset()), folder / "gallery")
    assert elsewhere.counts == here.counts
    reference = next(iter(layer.references))
    assert elsewhere.of_reference(reference) == here.of_reference(reference) == ["reference-0.png", 25.0, ""]
    assert MaskFolder(replace(layer, metric="other"), folder / "gallery").counts[0] == 0


def test_only_what_is_missing_or_older_than_its_mask_is_drawn(pages, tmp_path):
    _, made, _ = pages
    layer = made.gallery.masks[0]
    drawn = MaskFolder(layer, tmp_path)
    drawn.write()
    files = sorted((tmp_path / drawn.folder).iterdir())
    assert len(files) == len(layer.names) - 1
    changed = layer.directory / files[0].name
    for file in files:
        file.write_bytes(b"as it was")
    later = files[0].stat().st_mtime + 10
    os.utime(changed, (later, later))
    MaskFolder(layer, tmp_path).write()
    assert [file.name for file in files if file.read_bytes() != b"as it was"] == [changed.name]
