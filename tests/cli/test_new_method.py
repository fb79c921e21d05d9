"""`new-method` writes code that runs, in a package of its own and in a checkout."""

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from knowcusbench.cli.main import main
from knowcusbench.cli.new_method import new_method
from knowcusbench.errors import ConfigError
from knowcusbench.testing import check_method

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My-Method", "did you mean 'my_method'"),
        ("MyMethod", "did you mean 'my_method'"),
        ("2fast", "did you mean 'fast'"),
        ("../x", "did you mean 'x'"),
        ("class", "did you mean 'class_method'"),
        ("naïve", "can't be a module's name"),
        ("", "can't be a module's name"),
        ("mokus", "there is a method 'mokus' already; did you mean 'my_mokus'"),
    ],
)
def test_a_name_that_can_not_be_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["new-method", name])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--help"]])
def test_wrong_words_show_the_usage(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(["new-method", *words])
    assert stop.value.code == 2
    assert "usage: knowcusbench new-method NAME" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path):
    new_method("first_try", tmp_path)
    with pytest.raises(ConfigError, match="first_try exists already; choose another name"):
        new_method("first_try", tmp_path)


@pytest.mark.parametrize("name", ["torch", "json"])
def test_a_name_that_is_a_module_elsewhere_hides_nothing(tmp_path, name):
    (source,) = [path for path in new_method(name, tmp_path) if path.name == f"{name}.py"]
    assert source.parent.name == f"knowcusbench_{name}"


def test_in_a_checkout_the_files_go_where_its_own_methods_are(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "knowcusbench"\n')
    (tmp_path / "docs").mkdir()
    files = new_method("first_try", tmp_path / "docs")
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        *("methods/first_try.py", "configs/method/first_try.yaml", "tests/methods/test_first_try.py"),
    ]
    assert "_target_: knowcusbench.methods.first_try.FirstTry" in files[1].read_text()


def test_another_project_is_no_checkout(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "knowcusbench-extras"\n')
    assert new_method("first_try", tmp_path)[0] == tmp_path / "first_try" / "pyproject.toml"


def test_what_is_written_is_formatted_and_checked_as_our_own_code(tmp_path):
    files = new_method("first_try", tmp_path)
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff) if ruff.exists() else "ruff"]
    if importlib.util.find_spec("ruff"):
        command = [sys.executable, "-m", "ruff"]
    python = [str(path) for path in files if path.suffix == ".py"]
    for verb in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [*command, *verb, "--config", ROOT / "pyproject.toml", *python], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_the_written_method_keeps_the_contract(tmp_path, backbone, dog):
    from knowcusbench.adaptation.dreambooth import DreamBooth

    files = new_method("first_try", tmp_path)
    (source,) = [path for path in files if path.name == "first_try.py"]
    spec = importlib.util.spec_from_file_location("first_try", source)
    module = sys.modules["first_try"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    method = module.FirstTry(dreambooth=DreamBooth(steps=1, learning_rate=1e-3, rank=2, alpha=2))
    check_method(method, backbone, dog, tmp_path / "work")


@pytest.mark.command
def test_the_package_installs_runs_and_passes_its_test(tmp_path):
    """Works in a fresh environment that sees this one's packages, from `new-method` to the leaderboard."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    seen = [path for path in sys.path if path.endswith("site-packages")]
    # Put the checkout first: this environment's finder of knowcusbench may not work from another environment.
    (site / "these.pth").write_text("\n".join(f"import site; site.addsitedir({path!r})" for path in seen) + "\n")
    environment = {**os.environ, "KNOWCUSBENCH_CACHE": str(tmp_path / "cache")}

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    said = run(python, "-m", "knowcusbench", "new-method", "first_try")
    assert "pip install -e first_try\n" in said
    install = [python, "-m", "pip", "install", "-e", "first_try"]
    done = subprocess.run(install, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("needs a package index, for setuptools")
    assert done.returncode == 0, done.stderr
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "first_try/tests/test_first_try.py")
    small = ["grid.concepts=[reef_fish]", "grid.knowledge_items=1", "grid.prompts=1", "grid.seeds=[0]"]
    fast = ["recipe.dreambooth.steps=2", "backbone.steps=2", "metrics=[clip_i]", "effects.enabled=false"]
    board = run(python, "-m", "knowcusbench", "bench", "method=first_try", *small, *fast)
    assert "first_try" in board
    assert len(list((tmp_path / "results/runs/default/images/first_try").rglob("*.png"))) == 2
