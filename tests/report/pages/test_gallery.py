"""Content of the gallery's pages, read from the files."""

import dataclasses
import html
import json
import re

import numpy as np
import pandas as pd
import pytest

from knowcusbench.benchmark.types import Prompt
from knowcusbench.config.schema import GridConfig
from knowcusbench.report.pages.environment import environment, file_name, script_json
from knowcusbench.report.pages.gallery import EXTREMES, Gallery, write_gallery
from knowcusbench.report.pages.score_array import score_array
from knowcusbench.run.plan import make_plan

from .conftest import HOSTILE, LONG, SCRIPT


def test_every_score_stands_in_the_page_of_its_concept(pages):
    folder, made, inputs = pages
    found = {}
    for concept in made.gallery.concepts:
        text = (folder / "gallery" / f"{file_name(concept.name)}.html").read_text()
        data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
        tasks = dict(re.findall(r'id="s(\w{16})" data-task="(\w+)"', text))
        for sample, (_, methods, _) in data["samples"].items():
            for method, values in zip(data["methods"], methods, strict=True):
                for (key, *_), value in zip(data["columns"][tasks[sample]], values, strict=True):
                    if value is not None:
                        found[sample, method["label"], key] = value
    rows = inputs.scores.itertuples()
    assert found == {(row.sample_id, row.method, f"{row.task}_{row.metric}"): row.value for row in rows}


def test_best_and_worst_are_the_ends_of_the_scores_of_competing_methods(pages):
    folder, made, inputs = pages
    gallery = Gallery(made.gallery, folder, environment())
    for column in made.gallery.columns:
        own = inputs.scores[(inputs.scores["metric"] == column.metric) & (inputs.scores["task"] == column.task)]
        own = own[own["method"].isin(made.gallery.competing)].sort_values("value")
        if column.higher_is_better:
            own = own[::-1]
        best, worst = gallery.extremes(column)
        shown = [[(one.label, one.address.partition("#s")[2]) for one in ends] for ends in (best, worst)]
        expected = list(zip(own["method"], own["sample_id"], strict=True))
        assert shown == [expected[:EXTREMES], expected[::-1][:EXTREMES]]


def test_a_concept_with_many_samples_has_several_pages_of_less_than_five_megabytes(pages, tmp_path):
    _, made, _ = pages
    concept = made.gallery.concepts[0]
    prompts = tuple(Prompt(f"{{}} {number} {SCRIPT} {LONG}", "style") for number in range(300))
    concept = dataclasses.replace(concept, prompts=prompts)
    plan = make_plan([concept], GridConfig(seeds=[0, 1, 2, 3, 4]))
    many = dataclasses.replace(made.gallery, concepts=(concept,), plan=plan, drawn={})
    gallery = Gallery(many, tmp_path, environment())
    files = write_gallery(gallery, environment(), "run")
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 5e6
    found = [sample for file in files for sample in re.findall(r'class="sample" id="s(\w+)"', file.read_text())]
    assert sorted(found) == sorted(plan["id"])
    first = (tmp_path / "gallery" / "dog.html").read_text()
    assert 'href="dog.2.html"' in first


def test_the_cube_has_every_score_at_its_place():
    plan = pd.DataFrame({"id": [f"{n:04}" for n in range(20)]})
    generator = np.random.default_rng(0)
    rows = [
        (sample, method, metric, generator.normal())
        for sample in [*plan["id"], "unknown"]
        for method in ("a", "b", "other")
        for metric in ("x", "y")
        if generator.random() > 0.3
    ]
    scores = pd.DataFrame(rows, columns=["sample_id", "method", "metric", "value"]).sample(frac=1, random_state=0)
    array = score_array(plan, ["b", "a"], ["y", "x", "none"], scores)
    assert array.shape == (20, 2, 3)
    expected = {(s, m, k): v for s, m, k, v in rows if s != "unknown" and m != "other"}
    found = {
        (plan["id"][i], ["b", "a"][j], ["y", "x", "none"][k]): array[i, j, k]
        for i, j, k in zip(*np.where(array == array), strict=True)
    }
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_page_is_the_same_text_and_ends_no_element(text):
    written = str(script_json({"text": text}))
    assert json.loads(written) == {"text": text}
    assert not set(written) & {"<", ">", "&", "\u2028"}


def test_names_of_files_are_plain_and_differ_as_texts_do():
    texts = ["dog", "Dog", "dog ", "a/b", "a-b", "../..", "", *HOSTILE]
    names = [file_name(text) for text in texts]
    assert len({name.lower() for name in names}) == len(texts)
    assert all(re.fullmatch(r"[a-z0-9_-]+", name) for name in names)
    assert file_name("naive_db") == "naive_db"


def test_autoescape_is_on_for_every_template():
    made = environment()
    for name in made.list_templates():
        made.get_template(name)
    assert made.from_string("{{ text }}").render(text=SCRIPT) == html.escape(SCRIPT)
