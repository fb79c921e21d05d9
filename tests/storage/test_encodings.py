"""Text is read and written as UTF-8, whatever the machine's locale."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "knowcusbench"
PROGRAMS = ("run", "Popen", "check_output", "check_call", "call")


def unencoded(source: str) -> Iterator[int]:
    """Return the lines of calls that read or write text in the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {keyword.arg for keyword in node.keywords}
        texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwabx+t")]
        of_a_path = isinstance(node.func, ast.Attribute) and name in ("read_text", "write_text")
        if of_a_path or (name == "open" and modes and not any("b" in mode for mode in modes)):
            wanting = "encoding" not in given
        else:
            # In other functions, `text=` is the text itself.
            asked = any(word.arg == "text" and getattr(word.value, "value", None) is True for word in node.keywords)
            wanting = name in PROGRAMS and asked and "encoding" not in given
        if wanting:
            yield node.lineno


def test_calls_without_an_encoding_are_found() -> None:
    found = 'p.read_text()\np.write_text("x")\nopen(p, "w")\np.open("r")\nrun(c, text=True)\n'
    sound = 'p.read_text(encoding="utf-8")\nopen(p, "rb")\nrun(c, text=True, encoding="utf-8")\np.read_bytes()\n'
    assert list(unencoded(found)) == [1, 2, 3, 4, 5]
    assert not list(unencoded(sound))


def test_no_file_of_the_package_is_read_by_the_locale() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        for line in unencoded(path.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize("variables", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "latin-1"}])
def test_output_is_utf8_in_any_locale(variables: dict[str, str]) -> None:
    words = [sys.executable, "-m", "knowcusbench", "Bücher–犬"]
    done = subprocess.run(words, capture_output=True, env={**os.environ, **variables}, check=False)
    assert "'Bücher–犬'" in done.stderr.decode()
    assert done.returncode == 2
