"""Steps within a time budget; each writes a line to a file as soon as it has a result."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from knowcusbench.errors import first_line
from knowcusbench.machine.hardware import hardware
from knowcusbench.machine.out_of_memory import free_memory, is_out_of_memory

GPU_STATE = ("clocks.sm", "power.draw", "temperature.gpu", "clocks_event_reasons.active")
"""Fields queried from `nvidia-smi` before and after a step: a throttled GPU explains a slow one."""


Line = Mapping[str, Any]
"""Result of a step: `what`, and either seconds or the expected and the found value."""


@dataclass
class Steps:
    """Runner of steps that appends their lines to a JSON-lines file.

    A failing step, a full GPU or an expired time slot loses none of the earlier results.

    Attributes:
        path: the file; an existing one is overwritten.
        device: device of the steps.
        budget: seconds for all steps together, counted from the creation of this object.
        only: names of the steps to run; None runs all.
        lines: the written lines.
    """

    path: Path
    device: torch.device
    budget: float
    only: frozenset[str] | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, options: argparse.Namespace, device: torch.device) -> Self:
        """Return the steps for parsed `step_options`."""
        return cls(options.output, device, options.seconds, frozenset(options.only) if options.only else None)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("", encoding="utf-8")

    @property
    def left(self) -> float:
        """Remaining seconds of the budget."""
        return self.budget - (time.monotonic() - self._started)

    def write(self, step: str, **values: Any) -> None:
        """Append a line, and print it to standard error."""
        line = {"step": step, **values}
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(in_words(line), file=sys.stderr, flush=True)

    def run(self, step: str, needs: float, work: Callable[[], Iterator[Line]]) -> None:
        """Run a step whose `work` yields its lines.

        `needs` is its approximate time on an H100 in seconds: a step that exceeds the remaining budget is skipped, with
        a line in the file. An error ends the step, not the others.
        """
        if self.only is not None and step not in self.only:
            return
        on_gpu = self.device.type == "cuda"
        if on_gpu and self.left < needs:
            self.write(step, skipped=f"needs about {needs:.0f} s, {max(self.left, 0):.0f} s are left")
            return
        before, started = gpu_state() if on_gpu else {}, time.monotonic()
        kept: dict[str, Any] = {}
        try:
            for line in work():
                self.write(step, **line)
        except Exception as error:
            kept = {"error": f"{type(error).__name__}: {first_line(error)}", "out_of_memory": is_out_of_memory(error)}
        if kept:
            self.write(step, **kept)
        free_memory()
        after = {"gpu_before": before, "gpu_after": gpu_state()} if on_gpu else {}
        self.write(step, took=round(time.monotonic() - started, 2), **after)

    def describe(self, **more: Any) -> None:
        """Write the first line: hardware, versions, budget, and `more`."""
        versions = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda}
        self.write(
            "machine", full_size=self.device.type == "cuda", budget=self.budget, **more, **versions, **hardware()
        )

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The lines of errors and of checks with an unexpected value."""
        return [line for line in self.lines if "error" in line or line.get("ok") is False]


def step_options(about: str | None, *, seconds: float, example: str, output: str) -> argparse.ArgumentParser:
    """Return a parser of the options that `Steps.of` reads, and of `--device`; a command adds its own.

    Args:
        about: the command's description.
        seconds: the default budget.
        example: names of steps, for the help.
        output: the default file of lines.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=seconds, help="budget; steps that do not fit are skipped")
    parser.add_argument("--only", nargs="+", metavar="STEP", help=f"names of steps, such as {example}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path(output), help="file of JSON lines")
    return parser


def in_words(line: Line) -> str:
    """Return a line as readable text."""
    step = line["step"]
    if "skipped" in line:
        return f"{step}: skipped, {line['skipped']}"
    if "error" in line:
        return f"{step}: {line['error']}"
    if "took" in line:
        return f"{step}: {line['took']:.1f} s"
    if "found" in line:
        mark = {True: "ok", False: "NO", None: "--"}[line["ok"]]
        return f"{step}: {mark}  {line['what']}: expected {line['expected']}, found {line['found']}"
    return f"{step}: " + ", ".join(f"{key} {value}" for key, value in line.items() if key != "step")


def gpu_state() -> dict[str, str]:
    """Return clock, power, temperature and throttling reasons of the first GPU from `nvidia-smi`; empty without it."""
    ask = ["nvidia-smi", f"--query-gpu={','.join(GPU_STATE)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(ask, capture_output=True, encoding="utf-8", check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(GPU_STATE, (value.strip() for value in answer.splitlines()[0].split(",")), strict=False))
