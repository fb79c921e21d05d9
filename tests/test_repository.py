"""What surrounds the code says the same as the code: licence, citation, hooks, workflows and templates."""

import re
import shlex
import subprocess
import tomllib

import pytest
import yaml
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
GITHUB = ROOT / ".github"


def test_the_licence_is_the_one_that_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_notice_names_every_photographed_subject() -> None:
    folders = (ROOT / "tests" / "data" / "sample_benchmark" / "concept_image").iterdir()
    notice = (ROOT / "NOTICE").read_text()
    assert [path.name for path in folders if path.is_dir() and path.name not in notice] == []


def test_the_citation_is_of_this_version() -> None:
    for key in ("version", "license"):
        assert CITATION[key] == PROJECT[key]
    assert [author["name"] for author in CITATION["authors"]] == [author["name"] for author in PROJECT["authors"]]
    assert CITATION["abstract"] == PROJECT["description"]
    assert CITATION["keywords"] == PROJECT["keywords"]
    assert CITATION["repository-code"] == PROJECT["urls"]["Repository"]
    assert CITATION["references"][0]["url"] in (ROOT / "README.md").read_text()


def test_the_changelog_has_a_section_for_this_version() -> None:
    sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    assert PROJECT["version"] in "".join(sections[:2])
    links = re.findall(r"^\[(.+)\]: ", sections[-1], re.MULTILINE)
    assert [section[1 : section.index("]")] for section in sections] == links


def test_hooks_run_the_programs_that_lint_runs() -> None:
    """By the programs in .venv, which have the versions of constraints.txt."""
    recipe = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.installed-dev", "lint"], cwd=ROOT, capture_output=True, text=True
    )
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]

    def programs(lines: list[str]) -> list[list[str]]:
        """Without options and paths: a hook corrects, and is given the files that changed."""
        return [[word for word in shlex.split(line) if not re.match(r"-|\.$", word)] for line in lines]

    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert programs([hook["entry"] for hook in repository["hooks"]]) == programs(recipe.stdout.splitlines())


def test_every_supported_python_is_tested() -> None:
    (job,) = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())["jobs"].values()
    prefix = "Programming Language :: Python :: 3."
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if name.startswith(prefix)]
    assert job["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"
    (step,) = [step for step in job["steps"] if step.get("run") == ".ci/run"]
    variables = re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {*step["env"]} <= {*variables}
    (weekly,) = yaml.safe_load((GITHUB / "workflows" / "weekly.yml").read_text())["jobs"].values()
    assert (ROOT / weekly["uses"]).samefile(GITHUB / "workflows" / "ci.yml")
    assert weekly["with"] == {"newest": True}


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_has_the_keys_that_are_required(name: str) -> None:
    form = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= {*form}
    ids = [field["id"] for field in form["body"]]
    assert len({*ids}) == len(ids)
    assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in form["body"])


def test_a_bug_comes_with_the_output_of_doctor() -> None:
    fields = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / "bug.yml").read_text())["body"]
    (asked,) = [field for field in fields if "`knowcusbench doctor`" in field["attributes"]["label"]]
    assert asked["validations"]["required"]


def test_links_of_templates_to_pages_lead_to_files() -> None:
    text = "".join(path.read_text() for path in GITHUB.rglob("*.*") if path.is_file())
    pages = re.findall(rf"{PROJECT['urls']['Repository']}/blob/main/(\S+)", text)
    pages += re.findall(r"\bdocs/\w+\.md", text)
    assert pages
    assert [page for page in pages if not (ROOT / page).exists()] == []
