import pytest

from knowcusbench.analysis.published import PublishedTable, load_published
from knowcusbench.benchmark.types import Task


def numbers(table, method, condition=""):
    return {
        (value.task, value.metric): value.value
        for value in load_published(table)
        if (value.method, value.condition) == (method, condition)
    }


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("Naive-DB", (0.874, 0.758, 0.789, 0.717, 0.291, 20.80, 27 * 60)),
        ("Enc-FT", (0.582, 0.553, 0.591, 0.562, 0.197, 18.34, 10 * 60)),
        ("MoKus", (0.867, 0.764, 0.761, 0.718, 0.305, 21.30, 6 * 60)),
    ],
)
def test_the_main_table_holds_the_paper_s_numbers(method, row):
    recon, gen = Task.RECONSTRUCTION, Task.GENERATION
    columns = [(recon, "clip_i"), (recon, "clip_i_seg"), (gen, "clip_i"), (gen, "clip_i_seg")]
    columns += [(gen, "clip_t"), (gen, "pickscore"), (None, "train_seconds")]
    assert numbers(PublishedTable.MAIN, method) == dict(zip(columns, row, strict=True))


def test_only_the_rounded_times_are_approximate():
    for table in PublishedTable:
        approximate = {value.metric for value in load_published(table) if value.approximate}
        assert approximate == ({"train_seconds"} if table is PublishedTable.MAIN else set())


def test_more_knowledge_costs_about_seven_seconds_an_item():
    seconds = {
        count: numbers(PublishedTable.KNOWLEDGE_ITEMS, "MoKus", f"knowledge_items={count}")[None, "train_seconds"]
        for count in (1, 3, 5)
    }
    assert seconds == {1: 331.3, 3: 345.1, 5: 360.0}


def test_the_ablation_of_eta_is_there():
    assert numbers(PublishedTable.ETA, "MoKus", "eta=1e-4") == {(None, "clip_i"): 0.557}


def test_every_number_names_its_source():
    for table in PublishedTable:
        assert all(value.source.startswith("MoKus, arXiv 2603.12743") for value in load_published(table))
