"""Steps within a budget of time, each with a line in a file as soon as it knows something."""

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
"""What `nvidia-smi` is asked before and after a step: a throttled GPU explains a slow one."""


Line = Mapping[str, Any]
"""What a step found: `what`, and either seconds or what was expected and found."""


@dataclass
class Steps:
    """Runs steps one after another and appends their lines to a file of JSON lines, so that a step that fails, a full
    GPU or a slot that ends loses nothing that was known before.

    Attributes:
        path: the file; it is begun anew.
        device: what the steps compute on.
        budget: seconds for all steps together, from the making of this object on.
        only: names of the steps that are run; None runs all.
        lines: what was written.
    """

    path: Path
    device: torch.device
    budget: float
    only: frozenset[str] | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, options: argparse.Namespace, device: torch.device) -> Self:
        """The steps that `step_options` were given for."""
        return cls(options.output, device, options.seconds, frozenset(options.only) if options.only else None)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("", encoding="utf-8")

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - (time.monotonic() - self._started)

    def write(self, step: str, **values: Any) -> None:
        """Append a line, and print it to standard error."""
        line = {"step": step, **values}
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        print(in_words(line), file=sys.stderr, flush=True)

    def run(self, step: str, needs: float, work: Callable[[], Iterator[Line]]) -> None:
        """Run a step whose `work` yields its lines. `needs` is about how many seconds it takes on an H100: where fewer
        are left, it is left out and the file says so. An error ends the step, not the others."""
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
        """Write the first line: hardware, versions, budget, and what else is to be told."""
        versions = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda}
        self.write(
            "machine", full_size=self.device.type == "cuda", budget=self.budget, **more, **versions, **hardware()
        )

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The lines of errors and of checks that found something else than expected."""
        return [line for line in self.lines if "error" in line or line.get("ok") is False]


def step_options(about: str | None, *, seconds: float, example: str, output: str) -> argparse.ArgumentParser:
    """Return a parser of the options that `Steps.of` reads, and of `--device`; a command adds its own.

    Args:
        about: the command's description.
        seconds: the budget that is not asked for.
        example: names of steps, for the help.
        output: the file of lines that is not asked for.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=seconds, help="budget; steps that do not fit are left out")
    parser.add_argument("--only", nargs="+", metavar="STEP", help=f"as {example}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path(output), help="file of JSON lines")
    return parser


def in_words(line: Line) -> str:
    """Return a line for people."""
    step = line["step"]
    if "skipped" in line:
        return f"{step}: left out, {line['skipped']}"
    if "error" in line:
        return f"{step}: {line['error']}"
    if "took" in line:
        return f"{step}: {line['took']:.1f} s"
    if "found" in line:
        mark = {True: "ok", False: "NO", None: "--"}[line["ok"]]
        return f"{step}: {mark}  {line['what']}: expected {line['expected']}, found {line['found']}"
    return f"{step}: " + ", ".join(f"{key} {value}" for key, value in line.items() if key != "step")


def gpu_state() -> dict[str, str]:
    """Clock, power, temperature and reasons of throttling of the first GPU, as `nvidia-smi` says them; empty without
    it."""
    ask = ["nvidia-smi", f"--query-gpu={','.join(GPU_STATE)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(ask, capture_output=True, encoding="utf-8", check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(GPU_STATE, (value.strip() for value in answer.splitlines()[0].split(",")), strict=False))
