"""`import knowcusbench as kb`: what the command does, from Python, and nothing else of the process is touched."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

import knowcusbench as kb
from knowcusbench.errors import ConfigError, RunError

TINY = (
    "metrics=[clip_i]",
    "effects.enabled=false",
    "backbone.dtype=float32",
    "backbone.height=64",
    "backbone.width=64",
    "backbone.steps=2",
    "grid.concepts=[dog3,duck_toy]",
    "grid.knowledge_items=1",
    "grid.prompts=1",
    "grid.seeds=[0]",
)
"""Two concepts, alone and in a prompt: four images a method."""

GLOBALS = """
import asyncio, json, os, random, signal, sys, threading, warnings
import numpy, torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase
import knowcusbench as kb

def state():
    return {
        "threads": [torch.get_num_threads(), calls],
        "argv": list(sys.argv),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "random": [hash(random.getstate()), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()],
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "hydra": [GlobalHydra in Singleton._instances, str(VersionBase.instance().getbase())],
        "plug-ins": sorted(str(plugin) for plugin in Plugins.instance().discover(SearchPathPlugin)),
        "grad": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
    }

calls = []
real = torch.set_num_threads
torch.set_num_threads = lambda count: (calls.append(count), real(count))
random.seed(3); numpy.random.seed(4); torch.manual_seed(5)
words = json.loads(sys.argv[1])
before = state()

async def in_a_loop():
    return kb.bench("base", overrides=words)

asyncio.run(in_a_loop())
after = state()
failed = []
def in_a_thread():
    try:
        kb.bench("base", overrides=words)
    except BaseException as error:
        failed.append(repr(error))
thread = threading.Thread(target=in_a_thread); thread.start(); thread.join()
changed = [key for key in before if before[key] != after[key] or before[key] != state()[key]]
print(json.dumps({"changed": changed, "failed": failed}))
"""


@pytest.fixture(scope="module")
def words(cache_dir: Path, sample_benchmark: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("api")
    photos = ("benchmark=directory", f"benchmark.path={sample_benchmark}")
    return [*TINY, *photos, f"run.root={root}", "run.name=run", f"cache_dir={cache_dir}"]


@pytest.fixture(scope="module")
def globals_of_a_process(words: list[str]) -> subprocess.CompletedProcess[str]:
    """A process of its own that makes the run: in an event loop, and once more in a thread."""
    return subprocess.run([sys.executable, "-c", GLOBALS, json.dumps(words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(words: list[str], globals_of_a_process: subprocess.CompletedProcess[str]) -> Path:
    assert globals_of_a_process.returncode == 0, globals_of_a_process.stderr
    return Path(next(word for word in words if word.startswith("run.root=")).partition("=")[2]) / "run"


def test_importing_it_is_quick_and_brings_nothing_heavy() -> None:
    code = (
        "import sys, time; a = time.process_time(); import knowcusbench; b = time.process_time(); "
        "print(b - a, *({'torch', 'pandas', 'hydra', 'numpy', 'PIL', 'omegaconf'} & {*sys.modules}))"
    )
    seconds, *heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert float(seconds) < 0.1
    assert not heavy


def test_every_public_name_is_there() -> None:
    for name in kb.__all__:
        assert getattr(kb, name).__class__ is not None
    assert kb.__version__


@pytest.mark.command
def test_it_touches_no_global_of_the_process_and_prints_nothing(globals_of_a_process) -> None:
    *printed, told = globals_of_a_process.stdout.splitlines()
    assert (printed, globals_of_a_process.stderr) == ([], "")
    assert json.loads(told) == {"changed": [], "failed": []}


@pytest.mark.command
def test_its_files_are_those_of_the_command_to_the_byte(run: Path, words: list[str], tmp_path: Path) -> None:
    from knowcusbench.cli.main import main

    elsewhere = [word for word in words if not word.startswith("run.root=")]
    main(["bench", "method=base", *elsewhere, f"run.root={tmp_path}"])
    for pattern in ("images/**/*.png", "scores/**/*.parquet", "ceilings/*.parquet", "run.json", "plan.parquet"):
        files = sorted(path.relative_to(run) for path in run.glob(pattern))
        assert files
        assert files == sorted(path.relative_to(tmp_path / "run") for path in (tmp_path / "run").glob(pattern))
        for file in files:
            assert (run / file).read_bytes() == (tmp_path / "run" / file).read_bytes(), file


@pytest.mark.command
def test_results_are_tables_of_what_lies_in_the_run(run: Path, sample_benchmark: Path) -> None:
    results = kb.open_run(run)
    written = pd.read_csv(run / "report" / "leaderboard.csv")
    board = results.leaderboard()
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(board.to_csv(index=False))), written)
    own = pd.read_parquet(run / "scores" / "base" / "clip_i.parquet")
    assert results.scores.set_index("sample_id")["value"].to_dict() == own.set_index("sample_id")["value"].to_dict()
    assert results.methods.loc["base"].to_dict() == {
        "role": "floor",
        "planned": 4,
        "drawn": 4,
        "missing": 0,
        "altered": 0,
    }
    images = results.images("base", concept="dog3", task="generation")
    assert len(images) == 1
    (row,) = images.itertuples()
    phrase = kb.load_benchmark(sample_benchmark).concepts[0].knowledge[0].phrase
    assert row.text == row.prompt.replace("{}", phrase)
    assert results.image("base", row.id).tobytes() == Image.open(row.path).tobytes()
    assert "base" in results._repr_html_()
    assert not results.notes


@pytest.mark.command
def test_a_run_opens_without_its_plug_ins_and_its_benchmark(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    expected = kb.open_run(run).leaderboard()
    for config in (tmp_path / "moved" / "configs").iterdir():
        text = config.read_text()
        for name in ("knowcusbench.metrics", "knowcusbench.baselines", "sample_benchmark"):
            text = text.replace(name, "gone")
        config.write_text(text)
    pd.testing.assert_frame_equal(kb.open_run(tmp_path / "moved").leaderboard(), expected)


@pytest.mark.command
def test_an_old_and_unfinished_run_opens_and_says_what_it_lacks(tmp_path: Path) -> None:
    old = tmp_path / "run"
    shutil.copytree(ROOT / "tests" / "data" / "run_before_versions", old)
    for config in (old / "configs").iterdir():
        config.write_text(config.read_text().replace("knowcusbench.metrics", "gone"))
    shutil.rmtree(old / "images")
    results = kb.open_run(old)
    assert results.methods.loc["base", "missing"] == len(results.records.plan)
    table = pd.read_parquet(old / "scores" / "base" / "clip_t.parquet")
    board = results.leaderboard().set_index("label")
    assert board.loc["base", "generation_clip_t"] == pytest.approx(table["value"].mean())
    assert any("clip_t" in note for note in results.notes)


def test_errors_are_those_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method=mocus: no such option; did you mean 'mokus'"):
        kb.bench("mocus")
    with pytest.raises(ConfigError, match=r"recipe.dreambooth.stepz: unknown key"):
        kb.bench(overrides=["recipe.dreambooth.stepz=1"])
    with pytest.raises(ConfigError, match="cpu_threads: the number of threads is the process's own"):
        kb.bench(overrides=["cpu_threads=1"])
    with pytest.raises(RunError, match="is no run"):
        kb.open_run(tmp_path)


@pytest.mark.command
def test_unknown_names_are_told_with_the_nearest(run: Path) -> None:
    results = kb.open_run(run)
    with pytest.raises(ConfigError, match="no method 'bade'; did you mean 'base'"):
        results.compare("base", "bade")
    with pytest.raises(ConfigError, match="no concept 'dog'; did you mean 'dog3'"):
        results.images("base", concept="dog")


def test_progress_goes_to_a_hook(capfd: pytest.CaptureFixture[str]) -> None:
    from knowcusbench.machine.progress import listening, say, show

    lines: list[str] = []
    with listening(lines.append):
        say("one line")
        show("a table")
    assert (lines, capfd.readouterr()) == (["one line"], ("", ""))
    say("one line")
    show("a table")
    assert capfd.readouterr() == ("a table\n", "one line\n")


def test_a_difference_is_the_mean_of_the_pairs_and_controls_have_one_too(report_input, score_table) -> None:
    from knowcusbench.analysis.statistics import compared

    values = {"mokus": (0.5, 0.75, 0.875), "base": (0.25, 0.25, 0.5)}
    rows = [
        (label, "generation", concept, "clip_i", value)
        for label, own in values.items()
        for concept, value in zip(("cat", "dog", "duck"), own, strict=True)
    ]
    scores = score_table(rows)
    scores = scores.assign(sample_id=scores["concept"])
    inputs = report_input({label: {} for label in values}, scores=scores, concepts=3)
    (row,) = compared(inputs, "mokus", "base").itertuples()
    assert (row.method, row.other, row.mean, row.concepts) == ("mokus", "base", 1.125 / 3, 3)
    (reverse,) = compared(inputs, "base", "mokus").itertuples()
    assert (reverse.mean, reverse.p) == (-row.mean, row.p)
    # Of eight signs, two have a mean as far from zero: all plus and all minus.
    assert row.p == pytest.approx(2 / 8)
