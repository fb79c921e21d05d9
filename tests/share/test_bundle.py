"""Bundles altered in one way each: every one must be refused, with the reason."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.cli.share import recorded_run
from knowcusbench.errors import BundleError
from knowcusbench.share.bundle import read_bundle
from knowcusbench.share.manifest import is_safe
from knowcusbench.share.pack import pack, table_bytes, write_bundle, write_folder


def test_a_bundle_gives_the_numbers_of_the_runs_own_leaderboard(bundle, run_words):
    root = run_words[0].removeprefix("run.root=")
    own = json.loads(Path(root, "small", "report", "leaderboard.json").read_text())
    board = build_leaderboard(read_bundle(bundle).report_input())
    rows = {row.label: row for row in board.rows}
    assert set(rows) == {row["label"] for row in own["rows"]}
    for row in own["rows"]:
        for column, cell in zip(board.columns, rows[row["label"]].cells, strict=True):
            assert (cell.value, cell.low, cell.high, cell.n, cell.expected) == tuple(
                row["cells"][column.key][key] for key in ("value", "low", "high", "n", "expected")
            )


def test_a_score_of_the_bundle_is_the_plain_mean_of_its_samples(bundle):
    found = read_bundle(bundle)
    scores = found.scores
    own = scores[(scores["method"] == "anchor") & (scores["metric"] == "clip_i") & (scores["task"] == "generation")]
    by_hand = np.mean([np.mean(values) for _, values in own.groupby("concept")["value"]])
    board = build_leaderboard(found.report_input())
    row = next(row for row in board.rows if row.label == "anchor")
    index = [column.key for column in board.columns].index("generation_clip_i")
    assert row.cells[index].value == pytest.approx(by_hand, rel=1e-12)


def test_the_same_run_gives_the_same_bytes_and_no_home_directory(parts, run_words, monkeypatch, tmp_path):
    assert pack(recorded_run(run_words), group="lab a", images=1) == parts
    root = run_words[0].removeprefix("run.root=")
    monkeypatch.setenv("HOME", root)
    elsewhere = pack(recorded_run(run_words), images=0)
    assert not [name for name, data in elsewhere.items() if root.encode() in data]
    assert not [name for name in elsewhere if name.startswith("images/")]


def test_a_directory_with_the_same_files_is_a_bundle_too(parts, bundle, tmp_path):
    write_folder(tmp_path / "folder", parts)
    (tmp_path / "folder" / ".gitattributes").write_text("hidden files are not part of it")
    assert read_bundle(tmp_path / "folder").scores.equals(read_bundle(bundle).scores)
    (tmp_path / "folder" / "floors.parquet").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"floors.parquet has 1 bytes"):
        read_bundle(tmp_path / "folder")


def test_a_flipped_bit_anywhere_is_noticed(bundle, parts):
    """The bit is in the zip's own structures or in a part; the bundle is never read as if it were intact."""
    whole = bundle.read_bytes()
    reference = read_bundle(bundle)
    for place in range(len(whole) // 100, len(whole), len(whole) // 40):
        bundle.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = read_bundle(bundle)
        except BundleError:
            continue
        # For example, the bit may be in a time stamp of the zip's directory.
        assert found.manifest == reference.manifest
        assert found.scores.equals(reference.scores)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(bundle, share):
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BundleError, match="truncated, damaged or no bundle"):
        read_bundle(bundle)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"nowhere\.zip: can't be read"):
        read_bundle(tmp_path / "nowhere.zip")
    with pytest.raises(BundleError, match=r"has no manifest.json"):
        read_bundle(tmp_path)


def test_an_altered_score_is_refused(forged, parts, bundle, table, changed):
    """The digest reveals it, or the leaderboard if the digests were adapted. If both were, it is simply another
    result."""
    values = table(parts)["value"].to_numpy().copy()
    values[0] += 0.001
    altered = changed(parts, value=values)
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
    write_bundle(bundle, {name: ({**parts, **altered})[name] for name in names})
    with pytest.raises(BundleError, match=r"scores.parquet was altered|scores.parquet has"):
        read_bundle(bundle)
    with pytest.raises(BundleError, match=r"leaderboard.json says .* for .*, reconstruction_clip_i; its scores give"):
        read_bundle(forged(altered))


def test_an_altered_leaderboard_is_refused(forged, parts):
    document = json.loads(parts["leaderboard.json"])
    row = next(row for row in document["rows"] if row["label"] == "anchor")
    row["cells"]["generation_clip_t"]["value"] += 1e-6
    with pytest.raises(BundleError, match="for anchor, generation_clip_t"):
        read_bundle(forged({"leaderboard.json": json.dumps(document).encode()}))
    document["rows"].remove(row)
    with pytest.raises(BundleError, match="other rows or columns"):
        read_bundle(forged({"leaderboard.json": json.dumps(document).encode()}))
    for text in ("[]", "{", '{"rows": [1]}', '{"rows": 3}', "[" * 100_000):
        with pytest.raises(BundleError, match=r"leaderboard\.json"):
            read_bundle(forged({"leaderboard.json": text.encode()}))


ENTRIES = [
    ({"schema_version": 1}, "has schema version 1, this knowcusbench reads 2"),
    ({"schema_version": None}, "schema version None"),
    ({"group": "a/b"}, "manifest.json, group"),
    ({"run": "\x1b[2J"}, "manifest.json, run"),
    ({"methods": {"base": "floor"}}, "has the method 'anchor', manifest.json does not"),
    ({"methods": {"anchor": "ceiling", "base\x1b[2J": "floor"}}, r"manifest.json, methods.base\?\[2J"),
    ({"metrics": {}}, "has the metric 'clip_"),
    ({"protocols": {}}, "are of protocol .*, manifest.json says None"),
    ({"planned": {"generation": 1, "reconstruction": 6}}, "6 scores of .* for 1 planned samples"),
    ({"planned": {"dance": 1}}, "manifest.json, planned"),
    ({"reduction": "mode"}, "manifest.json, reduction"),
    ({"extra": 1}, "manifest.json, extra"),
    ({"concepts": 35}, "leaderboard.json says"),
]


@pytest.mark.parametrize(("entries", "said"), ENTRIES)
def test_a_manifest_that_is_not_true_is_refused(forged, entries, said):
    with pytest.raises(BundleError, match=said) as error:
        read_bundle(forged(**entries))
    assert str(error.value).isprintable()


SCORES = [
    (lambda t: t.assign(protocol="0" * 12), "are of protocol '000000000000'"),
    (lambda t: pd.concat([t, t[:1]]), "has more than one clip_"),
    (lambda t: t.assign(concept="reef_fish"), "is not the hash of its content"),
    (lambda t: t.assign(seed=t["seed"] + 1), "is not the hash"),
    (lambda t: t.assign(value=np.inf), "infinite"),
    (lambda t: t[:0], "other rows or columns|leaderboard.json says"),
]


@pytest.mark.parametrize(("change", "said"), SCORES)
def test_scores_that_can_not_be_are_refused(forged, parts, table, change, said):
    with pytest.raises(BundleError, match=said):
        read_bundle(forged({"scores.parquet": table_bytes("scores.parquet", change(table(parts)))}))


def parquet(made):
    buffer = io.BytesIO()
    pq.write_table(made, buffer)
    return buffer.getvalue()


def test_a_table_of_another_form_is_refused(forged, parts):
    own = pq.read_table(io.BytesIO(parts["costs.parquet"]))
    gap = own.set_column(0, "method", pa.array([None] * len(own), pa.string()))
    for data, said in [
        (b"PAR1 no table PAR1", "is damaged"),
        (parts["costs.parquet"][:-40], "is damaged"),
        (parquet(own.drop_columns("seconds")), "has other columns"),
        (parquet(own.set_column(2, "seconds", own["seconds"].cast(pa.float32()))), "has other columns"),
        (parquet(gap), "has gaps in the column method"),
    ]:
        with pytest.raises(BundleError, match=f"costs.parquet {said}"):
            read_bundle(forged({"costs.parquet": data}))


def test_a_table_that_would_fill_the_memory_is_refused_before_it_is_read(forged, monkeypatch):
    """A million equal rows take some kilobytes of Parquet."""
    monkeypatch.setattr("knowcusbench.share.bundle.MAX_CELLS", 3_999_999)
    text = pa.array(["clip_i"] * 1_000_000)
    made = pa.table({"metric": text, "task": text, "concept": text, "value": pa.array(np.zeros(1_000_000))})
    assert len(parquet(made)) < 50_000
    with pytest.raises(BundleError, match=r"floors\.parquet has 1,000,000 rows, more than can be read"):
        read_bundle(forged({"floors.parquet": parquet(made)}))


@pytest.mark.parametrize("name", ["scores.parquet", "leaderboard.json"])
def test_a_missing_part_is_refused(forged, parts, tmp_path, name):
    with pytest.raises(BundleError, match=f"manifest.json names no {name}"):
        read_bundle(forged({name: None}))
    write_bundle(tmp_path / "gap.zip", {key: data for key, data in parts.items() if key != name})
    with pytest.raises(BundleError, match=f"{name} is missing"):
        read_bundle(tmp_path / "gap.zip")


def test_a_part_that_nobody_vouches_for_is_refused(bundle):
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("images/more.png", b"x")
    with pytest.raises(BundleError, match=r"images/more\.png is not in manifest\.json"):
        read_bundle(bundle)


UNSAFE = ["../x", "/etc/x", "a/../../x", "a\\..\\x", "C:x", "a//b", "./a", "a/", "", "a\nb", "x\x1b[2J"]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_leads_out_is_refused(forged, bundle, name):
    assert not is_safe(name)
    if name:
        with pytest.raises(BundleError, match="is not a name that stays inside"):
            read_bundle(forged({name: b"x"}))


def test_safe_names_are_what_a_run_has():
    assert is_safe("images/mokus,recipe.rank=8/dog, 3.png")


def test_a_size_that_is_not_true_is_refused(bundle, parts):
    """A zip claims that a part has four gibibytes."""
    whole = bundle.read_bytes()
    size = len(parts["scores.parquet"]).to_bytes(4, "little")
    assert whole.count(size * 2) == 2
    bundle.write_bytes(whole.replace(size * 2, b"\xf0\xff\xff\xff" * 2))
    with pytest.raises(BundleError, match="claim to be larger than the file"):
        read_bundle(bundle)


def test_compressed_encrypted_and_repeated_parts_are_refused(parts, tmp_path):
    with zipfile.ZipFile(tmp_path / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", parts["manifest.json"])
    with pytest.raises(BundleError, match=r"'manifest\.json' is compressed or encrypted"):
        read_bundle(tmp_path / "deflated.zip")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("manifest.json", parts["manifest.json"])
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("manifest.json", parts["manifest.json"])
    with pytest.raises(BundleError, match="has a part twice"):
        read_bundle(tmp_path / "twice.zip")
