"""The training loop that all stages share: seeded, resumable at any moment, on one or several processes."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from knowcusbench.errors import ConfigError
from knowcusbench.files import atomic_path
from knowcusbench.toybox.shipped import world_digest

SAVE_SECONDS = 120.0
HISTORY_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast a stage learns.

    Attributes:
        steps: optimizer steps.
        batch_size: examples of a step, over all processes.
        learning_rate: its peak.
        warmup: steps in which it rises from zero.
        decay_from: the fraction of the steps after which it falls to a hundredth (cosine).
        weight_decay: of AdamW, on matrices only.
        muon: whether hidden matrices (of modules named `...blocks.<n>...`, modulation excepted) are optimised by
            Muon (arXiv 2502.16982), the rest by AdamW as everything is otherwise.
        average: decay of the exponential moving average that is kept in the end; 0 keeps the last weights.
        seed: of initialisation and examples.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 100
    decay_from: float = 0.0
    weight_decay: float = 0.01
    muon: bool = False
    average: float = 0.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        start = self.decay_from * self.steps
        progress = max(step - start, 0.0) / max(self.steps - start, 1.0)
        decay = 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * min((step + 1) / self.warmup, 1.0) * decay


Losses = Mapping[str, Tensor]
"""Scalars by name; their sum is what is minimised."""


def train(
    model: nn.Module,
    losses: Callable[[int, torch.Generator], Losses],
    schedule: Schedule,
    folder: Path,
    *,
    label: str,
) -> None:
    """Train in place, and leave the (averaged) result in `model`.

    Every step's random numbers come from a generator that is seeded with the step, so that a run that was
    interrupted and goes on equals one that was not. With torch.distributed every process computes its share of
    the batch, and gradients are averaged.

    Args:
        losses: from a step and its generator.
        folder: keeps `state.pt` (written every two minutes) and `losses.json`.

    Raises ConfigError to go on with a state of another version of the world or of another schedule.
    """
    rank, processes = _place()
    folder.mkdir(parents=True, exist_ok=True)
    state_file = folder / "state.pt"
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = _optimizers(model, schedule)
    average = [parameter.detach().clone() for parameter in parameters] if schedule.average else []
    history: list[dict[str, float]] = []
    seconds, first = 0.0, 0
    origin = {"world": world_digest(), "schedule": asdict(schedule)}
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        for key, value in origin.items():
            if state.get(key, value) != value:
                raise ConfigError(
                    f"{state_file}: was begun with another {key}; remove {folder} to begin anew, and what later stages "
                    "made of it"
                )
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for kept, saved in zip(average, state["average"], strict=True):
            kept.copy_(saved)
        history, seconds, first = state["history"], state["seconds"], state["step"]

    def save(step: int) -> None:
        if rank:
            return
        state = {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "average": average,
            "history": history,
            "seconds": seconds,
            "step": step,
            **origin,
        }
        with atomic_path(state_file) as temporary:
            torch.save(state, temporary)
        record = {**origin, "seconds": round(seconds, 1), "step": step, "losses": history}
        with atomic_path(folder / "losses.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1))

    generator = torch.Generator()
    sums: dict[str, float] = {}
    saved = started = time.perf_counter()
    model.train()
    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc=label, disable=rank > 0)
    for step in progress:
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = schedule.rate(step)
        generator.manual_seed((schedule.seed * 1_000_003 + step) * processes + rank)
        terms = losses(step, generator)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        if processes > 1:
            _average_gradients(parameters, processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if average:
            decay = min(schedule.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if (step + 1) % HISTORY_EVERY == 0:
            means = {name: round(total / HISTORY_EVERY, 5) for name, total in sums.items()}
            history.append({"step": step + 1, **means})
            sums = {}
            progress.set_postfix(means)
        now = time.perf_counter()
        if now - saved > SAVE_SECONDS and (step + 1) % HISTORY_EVERY == 0:
            seconds, started, saved = seconds + now - started, now, now
            save(step + 1)
    seconds += time.perf_counter() - started
    if first < schedule.steps:
        save(schedule.steps)
    with torch.no_grad():
        for parameter, kept in zip(parameters, average, strict=False):
            parameter.copy_(kept)
    model.eval()


def in_processes(count: int, function: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call `function(rank, count, folder, *arguments)` here, or in `count` processes of one thread each that share
    their gradients; on the CPU two of them are nearly twice as fast as two threads. `folder` is where they meet."""
    folder.mkdir(parents=True, exist_ok=True)
    if count == 1:
        function(0, 1, folder, *arguments)
    else:
        spawn(_join, args=(count, function, folder, *arguments), nprocs=count)  # type: ignore[no-untyped-call]


def _join(rank: int, count: int, function: Callable[..., None], folder: Path, *arguments: Any) -> None:
    meeting = folder / f"rendezvous-{os.getppid()}"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting.resolve()}", rank=rank, world_size=count)
    function(rank, count, folder, *arguments)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    meeting.unlink(missing_ok=True)


def compile_on_cpu(module: nn.Module, device: torch.device, *, dynamic: bool = False) -> None:
    """Compile a module in place where that pays: on the CPU, whose small models spend most of a step between matrix
    products. Without a C++ compiler it stays as it is."""
    if device.type == "cpu" and shutil.which("g++"):
        module.compile(dynamic=dynamic)


def _optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    hidden = [
        parameter
        for name, parameter in trained.items()
        if schedule.muon and parameter.ndim == 2 and "blocks." in name and "_mod." not in name
    ]
    others = [parameter for parameter in trained.values() if not any(parameter is matrix for matrix in hidden)]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, decay = schedule.learning_rate, schedule.weight_decay
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)]
    if hidden:
        # With this adjustment Muon's steps are as large as AdamW's, so that one learning rate serves both.
        optimizers.append(torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def _place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    gradients: list[Any] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= processes
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
