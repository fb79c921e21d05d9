"""What the Makefile installs, and in which versions."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.fixture
def make(tmp_path: Path):
    """`make("bench")` -> what make would do in a fresh checkout."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def run(*words: str) -> str:
        command = ["make", "--dry-run", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    return run


def installed(said: str) -> list[str]:
    return re.findall(r"--constraint constraints\.txt --editable \"\.\[(\w+)\]\"", said)


@pytest.mark.parametrize(("target", "extra"), [("bench", "cluster"), ("doctor", "cluster"), ("test", "dev")])
def test_a_target_installs_what_it_needs(make, target: str, extra: str) -> None:
    assert installed(make(target)) == [extra]


def test_what_is_installed_is_not_installed_again(make, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    bench = re.search(r"touch (\S+)", make("bench"))[1]
    (tmp_path / bench).touch()
    assert installed(make("bench")) == []
    assert installed(make("test")) == ["dev"]
    for stamp in re.findall(r"touch (\S+)", make("test")):
        (tmp_path / stamp).touch()
    assert installed(make("bench", "test", "lint", "docs")) == []
    os.utime(tmp_path / "constraints.txt", (4e9, 4e9))
    assert installed(make("test")) == ["dev"]


def test_python_and_versions_are_those_that_the_environment_names(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the workflows call `.ci/run`."""
    assert "--constraint constraints.txt " in make("test")
    monkeypatch.setenv("PYTHON", "python3.13")
    monkeypatch.setenv("CONSTRAINTS", "")
    said = make("test")
    assert "\npython3.13 -m venv .venv\n" in said
    assert '--editable ".[dev]"' in said
    assert "--constraint" not in said


def test_every_dependency_has_a_tested_version() -> None:
    lines = [line.partition("#")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()]
    constraints = {pin.name: pin for pin in map(Requirement, filter(None, lines))}
    assert not [pin for pin in constraints.values() if pin.url or [bound.operator for bound in pin.specifier] != ["=="]]
    needed = map(
        Requirement,
        [*PROJECT["dependencies"], *(name for key in ("cluster", "dev", "docs", "slurm") for name in EXTRAS[key])],
    )
    for need in needed:
        if need.name != PROJECT["name"]:
            (bound,) = constraints[re.sub(r"[-_.]+", "-", need.name).lower()].specifier
            assert need.specifier.contains(bound.version), need


@pytest.mark.parametrize(
    ("python", "line"),
    [
        ("", "a==1"),
        (">=3.9", "a==1"),
        (">=3.11.5", 'a==1; python_full_version >= "3.11.5"'),
        ("!=3.11.0,>=3.10", 'a==1; python_full_version != "3.11.0" and python_full_version >= "3.10"'),
    ],
)
def test_a_version_binds_the_pythons_that_it_supports(python: str, line: str) -> None:
    spec = importlib.util.spec_from_file_location("constraints", ROOT / ".ci" / "constraints.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.constraint("a", "1", python) == line
    assert str(Requirement(line).specifier) == "==1"


def test_tests_do_not_see_the_variables_of_the_make_that_runs_them(tmp_path: Path) -> None:
    """As `make test ARGS=...` starts them."""
    lines = ("import os, sys", "sys.path.insert(0, 'tests')", "import conftest", "before = {*os.environ}")
    script = "; ".join([*lines, "conftest.pytest_configure()", "print(*before - {*os.environ})"])
    (tmp_path / "Makefile").write_text(f'test:\n\t@{sys.executable} -c "{script}"\n')
    command = ["make", "--no-print-directory", "-f", str(tmp_path / "Makefile"), "ARGS=--durations=60", "METHOD=base"]
    removed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert {"MAKEFLAGS", "MAKELEVEL", "ARGS", "METHOD"} <= {*removed}
    assert not {"PATH", "HOME"} & {*removed}
