"""What the documents tell people to type is understood as it stands.

Commands go through the command's own parsers and Hydra, up to where the work would begin: verbs, options, overrides,
sweeps and the objects that they describe are checked, nothing is computed.
"""

import functools
import importlib.util
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from docs.documents import DOCUMENTS, ROOT, blocks, commands, settings
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.global_hydra import GlobalHydra

from knowcusbench.cli import main as cli
from knowcusbench.cli.run import WITHOUT_RUN
from knowcusbench.config.build import build
from knowcusbench.config.compose import _known_keys, compose_config, read_config
from knowcusbench.gpu.bundle import START
from knowcusbench.run.prepare import effects_spec, paper_spec
from knowcusbench.toybox import embedded

SBATCH = shlex.join(["sbatch", "--nodes=4", "docs/slurm/ray.sbatch", "bench", "…"])

ILLUSTRATIVE = {
    "knowcusbench '<verb>' '[key=value' '...]'": "the form of a command",
    "knowcusbench new-method NAME": "a place for a name; the same with `my_method` is run",
    "knowcusbench check PATH": "a place for a path",
    "knowcusbench leaderboard": "the name of a verb",
    "knowcusbench check DIR": "a place for a path",
    "knowcusbench convert DIR TARGET": "a place for paths",
    shlex.join(
        ["sbatch", "--nodes=4", "docs/slurm/ray.sbatch", "bench", "…"]
    ): "the form of a command; a whole one stands below it",
}
"""Commands that are not meant to be typed as they stand, and why."""

NOT_SETTINGS = {
    "weights_only=True": "of torch.load",
    "use_safetensors=True": "of diffusers",
    "allow_pickle=False": "of numpy.load",
    "init_lora_weights=gaussian": "of PEFT",
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True": "a variable that torch reads",
    "ATEN_CPU_CAPABILITY=avx2": "a variable that torch reads",
    "ONEDNN_MAX_CPU_ISA=AVX2": "a variable that torch reads",
    "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16": "a variable that torch reads",
    "grid.seed=[1]": "a mistake, with what is said about it",
    "key=a,b": "the form of a sweep",
    "hydra.launcher.partition=…": "of the launcher, which `cluster=slurm` chooses",
}
"""What looks like a setting in running text, and what it is."""

EXAMPLES = {"method=my_method", "metrics=[clip_i,brightness]"}
"""Settings that choose what a reader writes."""


looked_up = functools.cache(embedded)
"""Each look compares the digests of all files."""


class Understood(Exception):
    """Raised where the work would begin."""


@pytest.fixture
def understand(monkeypatch, tmp_path, cache):
    """Hands a command to the program's own parsers; raises what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KNOWCUSBENCH_CACHE", str(cache))

    def check(verb, composed, *_):
        config, resolved = read_config(composed)
        for key in ("backbone", "editor", "engine"):
            build(resolved[key], key)
        build(config.method, "method")
        for name, node in config.metrics.items():
            build(node, f"metrics.{name}")
        effects_spec(config, resolved)
        paper_spec(config.report, partial=True)
        if config.tracker:
            build(config.tracker, "tracker")
        if verb == "probe":
            build(resolved["recipe"]["probe"], "recipe.probe")

    def stop(*_, **__):
        raise Understood

    def recorded(overrides):
        check("report", compose_config(overrides))
        raise Understood

    monkeypatch.setattr("knowcusbench.toybox.embedded", looked_up)
    monkeypatch.setattr("knowcusbench.stages.run.run_stages", check)
    for verb, place in WITHOUT_RUN.items():
        monkeypatch.setattr(place.replace(":", "."), functools.partial(check, verb))
    monkeypatch.setattr("knowcusbench.run.recorded.recorded_config", lambda composed, words: composed)
    monkeypatch.setattr("knowcusbench.stages.score_images.read_folder", stop)
    monkeypatch.setattr("knowcusbench.cli.share.recorded_run", recorded)
    monkeypatch.setattr("knowcusbench.cli.share.read_bundle", stop)
    launchers = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.submitit_launcher")
    monkeypatch.setattr(launchers.BaseSubmititLauncher, "launch", BasicLauncher.launch)
    # It composes every job, as the launcher does again.
    monkeypatch.setattr("hydra.plugins.sweeper.Sweeper.validate_batch_is_legal", lambda *_: None)

    def run(*words):
        try:
            cli.main(list(words))
        except Understood:
            pass
        finally:
            GlobalHydra.instance().clear()

    return run


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def check_command(line, understand):
    program, *words = shlex.split(line)
    match program.rpartition("/")[2]:
        case "knowcusbench":
            understand(*words)
        case "sbatch":
            script = next(place for place, word in enumerate(words) if word.endswith(".sbatch"))
            assert (ROOT / words[script]).is_file()
            assert 'knowcusbench "$@" engine=ray engine.address=auto' in (ROOT / words[script]).read_text()
            understand(*words[script + 1 :], "engine=ray", "engine.address=auto")
        case "sh":
            # What a bundle's folder has, and its only argument: where lines go.
            assert (words[0].rpartition("/")[2], len(words)) == ("start.sh", 2)
            assert "out=${1:-" in START
        case "make":
            check_make(words, understand)
        case _:
            pytest.fail(f"nobody knows whether this is right: {line}")


def check_make(words, understand):
    known = set(re.findall(r"^([A-Z]+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word.partition("=")[0] for word in words if "=" in word} <= known
    installed = [f"--assume-old=.venv/.installed-{what}" for what in ("bench", "dev")]
    done = subprocess.run(["make", "--dry-run", *installed, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.replace("\\\n", " ").splitlines():
        program, *rest = shlex.split(line)
        if program.endswith("knowcusbench"):
            understand(*rest)
        elif program.endswith("python") and rest[0] == "-m":
            check_module(rest[1], rest[2:])


def check_module(name, options):
    """A module is there, and its source has the options."""
    place = importlib.util.find_spec(name) if not name.startswith("tests.") else None
    path = Path(place.origin) if place else ROOT / name.replace(".", "/") / "__main__.py"
    if options and "knowcusbench" in name:
        path = path.with_name("__main__.py") if path.name == "__init__.py" else path
        assert all(f'"{word}"' in path.read_text() for word in options if word.startswith("--"))
    assert path.is_file()


CASES = [
    pytest.param(line, id=f"{document.name}: {line[:80]}")
    for document in DOCUMENTS
    for line in commands(document)
    if line not in ILLUSTRATIVE
]


@pytest.mark.parametrize("line", CASES)
def test_a_command_is_understood(line, understand):
    if "my_method" in line and "new-method" not in line:
        # What a reader has written by then.
        option = Path("my_configs/method/my_method.yaml")
        option.parent.mkdir(parents=True)
        option.write_text("_target_: knowcusbench.baselines.Base")
        line = line.replace("make bench METHOD=", "knowcusbench bench --config-dir my_configs method=")
    check_command(line, understand)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("knowcusbench bnch method=mokus", "unknown verb 'bnch'"),
        ("knowcusbench bench method=mokuss", "no such option"),
        ("knowcusbench bench grid.sedes=[0]", "unknown key"),
        ("knowcusbench bench editor.etta=1", "unknown key|Key 'etta'"),
        ("knowcusbench bench backbone.steps=many", "backbone.steps"),
        ("knowcusbench bench method=a,b", "add -m"),
        ("knowcusbench bench metrics=[clip_x]", "no such option"),
        ("knowcusbench export --grup lab", "--grup: no such option"),
        ("knowcusbench leaderboard a.zip report.colums=[x]", "unknown key"),
        ("knowcusbench score --images out --promts x.csv", "required: --prompts|no such option"),
        ("sbatch docs/slurm/ray.sbatch bench methd=mokus", "methd"),
    ],
)
def test_a_typo_is_found(line, said, understand, capsys):
    with pytest.raises(SystemExit):
        check_command(line, understand)
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize("line", ["make bnech", "make bench METHDO=mokus", "make timing ARGS=--rwos"])
def test_a_typo_behind_make_is_found(line, understand):
    with pytest.raises(AssertionError):
        check_command(line, understand)


def test_what_is_called_illustrative_is_there():
    assert set(ILLUSTRATIVE) <= {line for document in DOCUMENTS for line in commands(document)}


@pytest.fixture(scope="session")
def known(reference):
    """Keys of the configuration, and the options of its groups."""
    compose_config([])
    found = set(_known_keys())
    options = {group: {file.stem for file in files} for group, files in reference.groups().items()}
    for group, files in reference.groups().items():
        for file in files:
            node = yaml.safe_load(file.read_text()) or {}
            if isinstance(node, dict) and "_target_" in node:
                found |= {f"{group}.{key.name}" for key in reference.keys(reference.targets()[node["_target_"]])}
    return found, options


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_in_the_text_are_known(document, known):
    keys, options = known
    variables = set(re.findall(r"^([A-Z]+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for word in settings(document):
        key, _, value = word.partition("=")
        named = re.fullmatch(r"[a-z0-9_]+", value)
        right = key in keys or key in variables or (key in options and (not named or value in options[key]))
        if not right and word not in {*NOT_SETTINGS, *EXAMPLES}:
            wrong.append(word)
    assert not wrong


def test_every_language_is_checked():
    found = [block for document in DOCUMENTS for block in blocks(document)]
    known = {"bash", "python", "yaml", "toml", "json", "text", "{toctree}", "{eval-rst}", ""}
    assert {block.language for block in found} <= known
    plain = {(block.document.name, block.heading) for block in found if not block.language}
    # A printed table, and a list of files.
    assert plain == {
        ("measurements.md", "Methods on the embedded benchmark"),
        ("running.md", "What a run leaves"),
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_entry_points_are_of_the_group_that_is_read(document):
    for block in blocks(document):
        if block.language == "toml":
            for group in tomllib.loads(block.text)["project"]["entry-points"]:
                assert group == "knowcusbench.configs"
