import json

import numpy as np
import pytest

from knowcusbench.analysis.leaderboard import build_leaderboard
from knowcusbench.errors import BundleError
from knowcusbench.report import render_console
from knowcusbench.share.bundle import read_bundle
from knowcusbench.share.merge import by_backbone, merged


def test_two_groups_keep_their_labels_apart_and_their_numbers(bundle, forged):
    ours, theirs = read_bundle(bundle), read_bundle(forged(group="lab b"))
    alone = build_leaderboard(ours.report_input())
    both = build_leaderboard(merged([ours, theirs]))
    values = {row.label: [cell.value for cell in row.cells] for row in both.rows}
    for row in alone.rows:
        own = [cell.value for cell in row.cells]
        labels = (f"lab a: {row.label}", f"lab b: {row.label}") if row.kind == "control" else (row.label,)
        for label in labels:
            assert values[label] == pytest.approx(own)
    assert both.run == "lab a + lab b"
    assert "lab b: anchor (control)" in render_console(both)


def test_one_group_with_two_runs_needs_no_names(forged, parts):
    methods = json.loads(parts["manifest.json"])["methods"]
    assert set(methods) == {"base", "anchor"}
    one = read_bundle(forged(group="lab", name="one.zip"))
    with pytest.raises(BundleError, match=r"one\.zip and .*one\.zip both have 'base' of 'lab'.*another --group"):
        merged([one, one])
    assert set(merged([one]).methods) == {"base", "anchor"}


def test_without_a_group_the_files_name_stands_for_it(forged):
    bundles = [read_bundle(forged(group="", name=name)) for name in ("x.zip", "y.zip")]
    assert set(merged(bundles).methods) == {"x: base", "x: anchor", "y: base", "y: anchor"}


def test_real_images_scored_by_two_groups_count_once(bundle, forged):
    together = merged([read_bundle(bundle), read_bundle(forged(group="lab b"))])
    ceilings = read_bundle(bundle).tables["ceilings.parquet"]
    assert len(together.ceilings) == len(ceilings)
    assert np.allclose(sorted(together.ceilings["value"]), sorted(ceilings["value"]))


MIXTURES = [
    ({"benchmark": "0" * 64}, "can't share a table: benchmark is '[0-9a-f]+' in one and '0+' in the other"),
    ({"weights": "0" * 64}, "can't share a table: backbone weights is"),
    ({"grid": {"seeds": [1]}}, "can't share a table: grid"),
    ({"backbone": {"steps": 50}}, "can't share a table: backbone"),
]


@pytest.mark.parametrize(("entries", "said"), MIXTURES)
def test_mixtures_are_refused(bundle, forged, entries, said):
    other = read_bundle(forged(group="lab b", **entries))
    with pytest.raises(BundleError, match=said) as error:
        merged([read_bundle(bundle), other])
    assert {"lab-a.zip", "forged.zip"} <= set(str(error.value).replace("/", " ").split())


def test_every_backbone_has_a_block_with_a_name_that_tells_it_from_the_others(bundle, forged, parts):
    settings = json.loads(parts["manifest.json"])["backbone"]
    bundles = [
        read_bundle(bundle),
        read_bundle(forged(group="b", name="b.zip")),
        read_bundle(forged(group="c", name="c.zip", weights="f" * 64)),
        read_bundle(forged(group="d", name="d.zip", backbone={**settings, "_class_": "OtherSpec", "a\x1b": 1})),
    ]
    own = bundles[0].manifest.weights[:12]
    assert by_backbone(bundles) == [
        (f"QwenImage weights={own}", bundles[:2]),
        ("QwenImage weights=ffffffffffff", bundles[2:3]),
        ("Other", bundles[3:]),
    ]
    steps = read_bundle(forged(group="e", name="e.zip", backbone={**settings, "steps": 50}))
    assert [name for name, _ in by_backbone([bundles[0], steps])] == ["QwenImage steps=2", "QwenImage steps=50"]


def test_another_benchmark_or_grid_is_refused_also_on_another_backbone(bundle, forged):
    for entries, said in MIXTURES[0], MIXTURES[2]:
        other = read_bundle(forged(group="lab b", weights="0" * 64, **entries))
        with pytest.raises(BundleError, match=said):
            by_backbone([read_bundle(bundle), other])


def test_scores_of_another_protocol_are_refused(bundle, forged, parts, table, changed):
    scores = table(parts)
    protocol = scores["protocol"].where(scores["metric"] != "clip_t", "f" * 12)
    protocols = json.loads(parts["manifest.json"])["protocols"] | {"clip_t": "f" * 12}
    other = read_bundle(forged(changed(parts, protocol=protocol), group="lab b", protocols=protocols))
    with pytest.raises(
        BundleError, match=r"clip_t was computed by protocol [0-9a-f]{12} in one and f{12} in the other"
    ):
        merged([read_bundle(bundle), other])
