"""The wheel has what git tracks of the package, and runs where there is no checkout."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]
APART = {"tests", "docs"}
"""Folders of the repository, besides hidden ones, that are not installed."""

pytestmark = pytest.mark.command


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files of the repository, those included that are new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("needs a git checkout")
    files = map(Path, done.stdout.split("\0")[:-1])
    return [path for path in files if (ROOT / path).is_file()]


@pytest.fixture(scope="module")
def wheel(tracked: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of tracked files alone: a checkout may have the remains of an older build."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in tracked:
        if path.parts[0] not in APART:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    (built,) = target.iterdir()
    return built


def pip(verb: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", verb, "--quiet", "--no-deps", "--no-index", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def installed_as(path: Path) -> str:
    """Where the wheel has a file of the repository."""
    for name, folder in FOLDERS.items():
        if path.is_relative_to(folder):
            return (PurePosixPath(*name.split(".")) / path.relative_to(folder)).as_posix()
    return path.as_posix()


def test_the_wheel_has_every_tracked_file_of_the_package_and_no_other(tracked: list[Path], wheel: Path) -> None:
    expected = {
        installed_as(path): (ROOT / path).read_bytes()
        for path in tracked
        if len(path.parts) > 1 and not path.parts[0].startswith(".") and path.parts[0] not in APART
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert {*expected} - {*found} == set(), "a new folder needs an __init__.py, new data a line in pyproject.toml"
    assert {*found} - {*expected} == set()
    assert [name for name in found if found[name] != expected[name]] == []


def test_the_wheel_names_licence_and_authors(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if ".dist-info/" in name])
    (path,) = tmp_path.iterdir()
    metadata = importlib.metadata.PathDistribution(path).metadata
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The knowcusbench authors"
    for name in ("LICENSE", "NOTICE"):
        assert (path / "licenses" / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_installed_command_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip("install", "--no-compile", "--target", str(site), str(wheel))
    packages = [path for path in sys.path if path.endswith("site-packages")]
    # Without `site` no .pth file brings the checkout back.
    done = subprocess.run(
        [sys.executable, "-S", str(site / "bin" / "knowcusbench"), "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *packages])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "knowcusbench bench method=mokus" in done.stdout
