"""The table of a GPU's timings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from knowcusbench.errors import ConfigError
from knowcusbench.gpu.steps import Line
from knowcusbench.report.tables.markdown import table_line


def markdown(lines: Sequence[Line]) -> str:
    """Return the table of timings from the lines of a file, followed by failed and skipped steps."""
    machine = next((line for line in lines if line["step"] == "machine"), {})
    rates = next((line for line in lines if line.get("what") == "rates"), None)
    name = ", ".join(machine.get("gpus") or []) or machine.get("processor", "?")
    head = f"{name}, torch {machine.get('torch', '?')}, {machine.get('dtype', '?')}"
    if rates:
        head += f"; bf16 {rates['bf16'] / 1e12:.3g} TFLOP/s, fp32 {rates['fp32'] / 1e12:.3g} TFLOP/s, "
        head += f"{rates['bytes_per_second'] / 1e9:.4g} GB/s"
    table = [
        head,
        "",
        table_line(
            ["step", "what", "seconds", "spread", "floor", "times the floor", "counted", "peak", "of the estimate"]
        ),
        table_line(["---", "---", *["---:"] * 4, "---", "---:", "---:"]),
    ]
    if not machine.get("full_size"):
        table.insert(0, "Small shapes on a CPU: that every step runs, and nothing about full size.")
    rest = []
    for line in lines:
        if "seconds" in line:
            table.append(table_line(_cells(line)))
        elif "error" in line or "skipped" in line or line.get("ok") is False:
            what = (
                line.get("error")
                or line.get("skipped")
                or f"{line['what']}: {line['expected']} expected, {line['found']} found"
            )
            rest.append(f"- {line['step']}: {what}")
    return "\n".join([*table, *([""] if rest else []), *rest])


def _cells(line: Line) -> list[str]:
    peak, floor = line.get("peak_memory_bytes"), line.get("floor")
    return [
        line["step"],
        line["what"],
        f"{line['seconds']:.4g}",
        f"{line['spread']:.0%}" if "spread" in line else "",
        f"{floor:.4g}" if floor else "",
        f"{line['seconds'] / floor:.2f}" if floor else "",
        line.get("bound", ""),
        f"{peak / 2**30:.1f} GiB" if peak else "",
        f"{peak / line['estimated_bytes']:.0%}" if peak and "estimated_bytes" in line else "",
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON-lines file. Raises ConfigError if it can't be read."""
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(text) for text in file]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--table: {path} can't be read ({error})") from error
