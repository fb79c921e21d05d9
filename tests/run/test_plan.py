from dataclasses import replace

import pytest

from knowcusbench.benchmark.types import Benchmark, Task
from knowcusbench.config.schema import GridConfig, Pairing
from knowcusbench.errors import ConfigError
from knowcusbench.run.plan import Sample, counts, make_plan, samples, select_concepts


def plan_of(benchmark: Benchmark, **grid: object):
    config = GridConfig(**{"seeds": [0, 1, 2, 3, 4], **grid})
    return make_plan(select_concepts(benchmark, config), config)


def test_grids_have_the_sizes_of_the_paper(made_up_benchmark):
    assert counts(plan_of(made_up_benchmark)) == {"reconstruction": 875, "generation": 4975}
    crossed = plan_of(made_up_benchmark, pairing=Pairing.crossed)
    assert counts(crossed) == {"reconstruction": 875, "generation": 174_125}
    assert crossed["id"].is_unique


def test_a_sample_keeps_its_id_in_every_grid(made_up_benchmark):
    small = plan_of(made_up_benchmark, concepts=["concept_03"], knowledge_items=2, prompts=1, seeds=[4])
    large = plan_of(made_up_benchmark)
    key = ["concept", "task", "knowledge", "prompt", "seed"]
    large_ids = large.astype(str).set_index(key)["id"]
    small_ids = small.astype(str).set_index(key)["id"]
    assert len(small) == 4
    assert (large_ids.loc[small_ids.index] == small_ids).all()


def test_the_id_changes_with_every_part_of_the_content(made_up_benchmark):
    ids = {}
    for changed in ("phrase", "template", "concept", "seed"):
        concept = made_up_benchmark.concepts[0]
        item, prompt = concept.knowledge[0], concept.prompts[0]
        phrase = item.phrase + ("!" if changed == "phrase" else "")
        template = prompt.template + ("!" if changed == "template" else "")
        one = type(concept)(
            name=concept.name + ("!" if changed == "concept" else ""),
            class_noun="dog",
            images=(),
            knowledge=(type(item)(phrase, item.question, item.answer, item.aspect),),
            prompts=(type(prompt)(template, prompt.aspect),),
        )
        grid = GridConfig(seeds=[1 if changed == "seed" else 0], tasks=["generation"])
        ids[changed] = make_plan([one], grid)["id"][0]
    assert len(set(ids.values())) == 4


def test_ids_do_not_change_between_versions():
    """The values are pinned: a change here would make every earlier run directory useless."""
    from knowcusbench.storage.digests import content_id

    assert content_id('["dog", "reconstruction", "my gift", "{}"]', 0) == "90ccd0ad74c0c555"


def test_noise_seeds_are_valid_for_torch_and_differ(made_up_benchmark):
    seeds = [sample.noise_seed for sample in samples(plan_of(made_up_benchmark))]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**63


def test_samples_carry_their_row(made_up_benchmark):
    plan = plan_of(made_up_benchmark, concepts=["concept_00"], seeds=[7])
    first = samples(plan)[0]
    assert first == Sample(first.id, "concept_00", Task.RECONSTRUCTION, 0, "origin", "{}", "reconstruction", 7)


def test_concepts_are_chosen_by_name_and_glob(made_up_benchmark):
    chosen = select_concepts(made_up_benchmark, GridConfig(concepts=["concept_1*", "concept_02"]))
    assert [concept.name for concept in chosen] == ["concept_02", *(f"concept_1{n}" for n in range(10))]


@pytest.mark.parametrize(
    ("grid", "named"),
    [
        ({"concepts": ["concept_99"]}, "concept_99"),
        ({"tasks": ["reconstructio"]}, "did you mean 'reconstruction'"),
        ({"concepts": []}, "grid.concepts: expected at least one"),
        ({"tasks": []}, "grid.tasks: expected at least one"),
        ({"seeds": [0, 10**20]}, "grid.seeds: 100000000000000000000 is no 64-bit number"),
        ({"seeds": [-(2**63) - 1]}, "grid.seeds: -9223372036854775809 is no 64-bit number"),
        ({"seeds": []}, "grid.seeds"),
        ({"seeds": [1, 1]}, "grid.seeds"),
        ({"knowledge_items": 6}, "knowledge_items=6"),
        ({"knowledge_items": 0}, "knowledge_items=0"),
        ({"prompts": 9}, "prompts=9"),
    ],
)
def test_an_impossible_grid_is_named(made_up_benchmark, grid, named):
    with pytest.raises(ConfigError, match=named):
        plan_of(made_up_benchmark, **grid)


def test_a_concept_whose_name_is_a_pattern_is_meant_by_its_name(made_up_benchmark):
    first, second, *others = made_up_benchmark.concepts
    renamed = (replace(first, name="dog1"), replace(second, name="dog[1]"), *others)
    chosen = select_concepts(replace(made_up_benchmark, concepts=renamed), GridConfig(concepts=["dog[1]"]))
    assert [concept.name for concept in chosen] == ["dog[1]"]


def test_the_largest_seeds_are_those_of_64_bits(made_up_benchmark):
    seeds = [2**63 - 1, -(2**63)]
    assert set(plan_of(made_up_benchmark, seeds=seeds)["seed"]) == set(seeds)
