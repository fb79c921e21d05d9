"""A command that only reads or prints imports nothing that it does not need, by `sys.modules` of a fresh process."""

import pytest
from fresh_process import COMPUTING, DRAWING, TABLES, in_fresh_process

CONFIGURING = {"hydra", "omegaconf", "pydantic", "PIL", "huggingface_hub"}

pytestmark = pytest.mark.command


@pytest.mark.parametrize("words", [("--help",), ("check",), ("convert", "one"), ("new-method",)])
def test_help_and_usage_load_the_standard_library_alone(words):
    ended = in_fresh_process(*words)
    assert ended.code == (0 if words == ("--help",) else 2)
    assert ended.loaded & (COMPUTING | DRAWING | TABLES | CONFIGURING) == set()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("bench", "--cfg", "job"), 0, "method:\n"),
        (("bench", "--help"), 0, "mokus"),
        (("benhc",), 2, "did you mean 'bench'"),
        (("bench", "method=mokkus"), 2, "did you mean 'mokus'"),
        (("bench", "grid.seed=[1]"), 2, "did you mean 'grid.seeds'"),
        (("bench", "-sc", "query=bash"), 0, "mokus"),
    ],
)
def test_composing_or_refusing_a_configuration_loads_no_tables(words, code, said):
    completing = {"COMP_LINE": "knowcusbench bench method=mo", "COMP_POINT": "28"} if "-sc" in words else {}
    words = ("-sc", "query=bash") if completing else words
    ended = in_fresh_process(*words, **completing)
    assert (ended.code, said in ended.output + ended.error) == (code, True), ended
    assert ended.loaded & (COMPUTING | DRAWING | TABLES) == set()


def test_check_loads_no_tables(sample_benchmark):
    ended = in_fresh_process("check", sample_benchmark)
    assert ended.code == 0
    assert ended.loaded & (COMPUTING | DRAWING | {"pandas", "pyarrow", "hydra"}) == set()


def test_convert_computes_nothing(sample_benchmark, tmp_path):
    ended = in_fresh_process("convert", sample_benchmark, tmp_path / "there")
    assert ended.code == 0
    # The target's tables are written by the `datasets` library.
    assert ended.loaded & (COMPUTING - {"datasets"} | DRAWING | {"hydra"}) == set()


PHOTOGRAPHS = ("benchmark=directory", "benchmark.path={sample_benchmark}")


@pytest.mark.parametrize(
    "words",
    [
        ("method=mokus", "metrics=[clip_i,clip_i_seg,clip_t,pickscore]"),
        ("method=enc_ft", "editor=ultraedit_nullspace", "metrics=[copies,retrieval,dino_i]", "encoders.dino.source=x"),
        ("method=naive_db", "metrics=[oracle_concept,oracle_exact,oracle_prompt]", "grid.pairing=crossed"),
        ("backbone=qwen_image_lightning", *PHOTOGRAPHS, "metrics=[hpsv2,siglip_t]", "engine=ray"),
    ],
)
def test_plan_needs_no_model(words, sample_benchmark, tmp_path):
    """Holds in an empty cache too, since the counts of known backbones ship with the package."""
    overrides = [word.format(sample_benchmark=sample_benchmark) for word in words]
    ended = in_fresh_process("plan", f"run.root={tmp_path}", f"cache_dir={tmp_path}/cache", *overrides)
    assert ended.code == 0, ended.error
    assert "FLOP an image" in ended.output
    assert ended.loaded & (COMPUTING | DRAWING) == set()
