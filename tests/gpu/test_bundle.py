import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from knowcusbench.errors import ConfigError
from knowcusbench.gpu.bundle import PRESENT, START, carried, required, write_bundle


def test_all_that_a_run_requires_is_carried_or_present():
    names = required(["knowcusbench"]) - {"knowcusbench"}
    assert names == names & (carried().keys() | required(PRESENT))
    assert {"diffusers", "open-clip-torch", "hydra-core", "pydantic", "ftfy"} <= carried().keys()
    assert "torch" not in carried()


def test_requirements_are_followed_and_those_of_extras_are_not():
    # hydra-core requires omegaconf, and the runtime of the antlr4 parser.
    assert {"omegaconf", "antlr4-python3-runtime"} <= required(["hydra-core"])
    assert required(["hydra-core"], without=frozenset({"omegaconf"})) == {"hydra-core"} | required(["packaging"]) | {
        name for name in required(["hydra-core"]) if name.startswith("antlr4")
    }
    assert "moto" not in required(["knowcusbench"])


def test_versions_are_those_that_are_tested_here():
    assert carried()["diffusers"] == importlib.metadata.version("diffusers")


def test_an_old_bundle_is_not_mixed_with_a_new_one(tmp_path: Path):
    (tmp_path / "old.whl").touch()
    with pytest.raises(ConfigError, match="exists already"):
        write_bundle(tmp_path, "3.12")


def test_the_script_is_a_script(tmp_path: Path):
    (tmp_path / "start.sh").write_text(START, encoding="utf-8")
    assert subprocess.run(["sh", "-n", tmp_path / "start.sh"], check=False).returncode == 0
