"""Run the code cells of a notebook and keep what they show: `python docs/notebook.py docs/examples/first_run.ipynb`.

The notebook's own outputs are made this way, in an empty folder, so that no Jupyter is needed to make or to test them.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def run_cells(sources: list[str], namespace: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the outputs of cells that run one after another in `namespace`, in the notebook format.

    As in Jupyter, a cell shows what it prints and the value of its last line.
    """
    outputs = []
    for number, source in enumerate(sources, 1):
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed, value = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, f"cell {number}", "exec"), namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
        shown: list[dict[str, Any]] = []
        if text := printed.getvalue():
            shown.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
        if value is not None:
            shown.append(
                {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": _data(value)}
            )
        outputs.append(shown)
    return outputs


def _data(value: Any) -> dict[str, Any]:
    """Return what a notebook keeps of a value: a picture, or text with HTML where there is any."""
    if hasattr(value, "_repr_png_"):
        return {"text/plain": "<picture>", "image/png": base64.b64encode(value._repr_png_()).decode()}
    data: dict[str, Any] = {"text/plain": repr(value)}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = value._repr_html_()
    return data


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the code cells of a notebook."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def main(path: Path) -> None:
    """Run a notebook's cells in an empty folder and write their outputs into it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells, home = code_cells(notebook), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            outputs = run_cells(["".join(cell["source"]) for cell in cells], {"__name__": "__main__"})
        finally:
            os.chdir(home)
    for number, (cell, shown) in enumerate(zip(cells, outputs, strict=True), 1):
        cell["execution_count"], cell["outputs"] = number, shown
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
