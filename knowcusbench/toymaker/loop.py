"""The training loop of all stages: seeded, resumable at any moment, on one or several processes."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from knowcusbench.errors import ConfigError
from knowcusbench.machine.device import fast_dtype
from knowcusbench.storage.files import atomic_path
from knowcusbench.toybox.shipped import world_digest

T = TypeVar("T")
R = TypeVar("R")

SAVE_SECONDS = 120.0
HISTORY_EVERY = 50

MOMENTUM = 0.95
"""Momentum of Muon."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length and learning rate of a stage.

    Attributes:
        steps: optimizer steps.
        batch_size: examples per step, over all processes.
        learning_rate: peak learning rate.
        warmup: steps in which it rises from zero.
        decay_from: the fraction of the steps after which it falls to a hundredth (cosine).
        weight_decay: weight decay of AdamW, on matrices only.
        muon: optimise hidden matrices (of modules named `...blocks.<n>...`, except modulation) with Muon (arXiv
            2502.16982), and the rest with AdamW; otherwise AdamW optimises everything.
        average: decay of the exponential moving average that becomes the result; 0 keeps the last weights.
        seed: seed of initialisation and examples.
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
        """Return the learning rate of a step (from 0)."""
        start = self.decay_from * self.steps
        progress = max(step - start, 0.0) / max(self.steps - start, 1.0)
        decay = 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * min((step + 1) / self.warmup, 1.0) * decay


Losses = Mapping[str, Tensor]
"""Scalars by name; their sum is minimised."""


def train(
    model: nn.Module,
    losses: Callable[..., Losses],
    schedule: Schedule,
    folder: Path,
    *,
    label: str,
    draw: Callable[[int, torch.Generator], tuple[Tensor, ...]] | None = None,
) -> None:
    """Train in place, and leave the (averaged) result in `model`.

    Every step's random numbers come from a generator seeded with the step, so a resumed run equals an uninterrupted
    one. With torch.distributed every process computes its share of the batch, and gradients are averaged.

    Args:
        losses: computes the losses from the drawn values.
        draw: draws tensors on the model's device, of few shapes, from a step and its generator; a GPU then replays a
            step as a whole. By default the step and the generator are passed on.
        folder: stores `state.pt` (written every two minutes) and `losses.json`.

    Raises ConfigError when resuming from a state of another version of the world or of another schedule.
    """
    rank, processes = _place()
    folder.mkdir(parents=True, exist_ok=True)
    state_file = folder / "state.pt"
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    # Tensors, since a replayed step reads them from fixed addresses.
    rate, fresh = torch.zeros((), device=device), torch.zeros((), device=device)
    optimizers = _optimizers(model, schedule, rate)
    average = [parameter.detach().clone() for parameter in parameters] if schedule.average else []
    history: list[dict[str, float]] = []
    seconds, first = 0.0, 0
    origin = {"world": world_digest(), "schedule": asdict(schedule)}
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        for key, value in origin.items():
            if state.get(key, value) != value:
                raise ConfigError(
                    f"{state_file}: was begun with another {key}; remove {folder} and the results of later stages to "
                    "start again"
                )
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            for group in optimizer.param_groups:
                group["lr"] = rate
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
        hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        record = {
            **origin,
            "hardware": hardware,
            "dtype": fast_dtype(device),
            "seconds": round(seconds, 1),
            "step": step,
            "losses": history,
        }
        with atomic_path(folder / "losses.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def advance(*drawn: Any) -> Losses:
        terms = losses(*drawn)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        if processes > 1:
            _average_gradients(parameters, processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if average:
            moved = torch._foreach_sub([parameter.detach() for parameter in parameters], average)
            torch._foreach_mul_(moved, fresh)
            torch._foreach_add_(average, moved)
        return {name: value.detach() for name, value in terms.items()}

    step_of = Replayed(advance) if draw and device.type == "cuda" and processes == 1 else advance
    generator = torch.Generator()
    sums: dict[str, Tensor] = {}
    saved = started = time.perf_counter()
    model.train()
    progress = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc=label, disable=rank > 0)
    for step in progress:
        rate.fill_(schedule.rate(step))
        fresh.fill_(1 - min(schedule.average, (step + 1) / (step + 10)))
        generator.manual_seed((schedule.seed * 1_000_003 + step) * processes + rank)
        terms = step_of(*(draw(step, generator) if draw else (step, generator)))
        for name, value in terms.items():
            sums[name] = value + sums.get(name, 0.0)
        if (step + 1) % HISTORY_EVERY == 0:
            means = {name: round(total.item() / HISTORY_EVERY, 5) for name, total in sums.items()}
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


def mixed(device: torch.device) -> torch.autocast:
    """Compute matrix products in bf16 where the device is fast in it; change nothing elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) == "bfloat16")


def in_processes(count: int, function: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call `function(rank, count, folder, *arguments)` here, or in `count` processes of one thread each.

    The processes share their gradients; on the CPU two of them are nearly twice as fast as two threads. They connect
    through a file in `folder`.
    """
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


def in_workers(function: Callable[[T], R], items: Iterable[T], device: torch.device) -> Iterator[R]:
    """Yield `function` of each item, in order.

    If the device leaves the cores idle, one process per core computes; on the CPU this one does.
    """
    if device.type == "cpu":
        yield from map(function, items)
        return
    with ProcessPoolExecutor(None, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(function, items)


def compile_layers(module: nn.Module, device: torch.device) -> None:
    """Compile a module in place: small models spend most of a step between matrix products.

    On a CPU without a C++ compiler it stays uncompiled.
    """
    if device.type != "cpu" or shutil.which("g++"):
        module.compile(dynamic=False)


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` (arXiv 2502.16982) with AdamW's step size, so that one learning rate serves both.

    All matrices of a shape are updated together: they are many and small.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: Tensor, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for matrix in (matrix for matrix in group["params"] if matrix.grad is not None):
                shapes.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), matrices in shapes.items():
                gradients: list[Any] = [matrix.grad for matrix in matrices]
                momenta = [self._momentum(matrix) for matrix in matrices]
                torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
                updates = orthogonal(torch.stack(torch._foreach_lerp(gradients, momenta, MOMENTUM)))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                steps = updates.float() * (group["lr"] * 0.2 * math.sqrt(max(rows, columns)))
                torch._foreach_sub_(matrices, list(steps))

    def _momentum(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


def orthogonal(matrices: Tensor) -> Tensor:
    """Make all singular values of matrices (n, rows, columns) about 1, by five Newton-Schulz steps.

    It computes in bf16 where that is fast.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).to(getattr(torch, fast_dtype(matrices.device)))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x if wide else x.mT


class Replayed:
    """A function of tensors on a GPU that is recorded once for their shapes and then replayed.

    A step of a small model is thousands of kernels, most of them shorter than their launch. The returned tensors are
    overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Losses]) -> None:
        self._function = function
        self._calls: dict[tuple[torch.Size, ...], int] = {}
        self._records: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Losses]] = {}
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *inputs: Tensor) -> Losses:
        shapes = tuple(value.shape for value in inputs)
        calls = self._calls[shapes] = self._calls.get(shapes, 0) + 1
        if calls < 4:  # Compilation, loading and first allocations can't be recorded.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                result = self._function(*inputs)
            torch.cuda.current_stream().wait_stream(self._stream)
            return result
        if shapes not in self._records:
            graph, kept = torch.cuda.CUDAGraph(), tuple(value.clone() for value in inputs)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = self._function(*kept)
            self._records[shapes] = graph, kept, result
        graph, kept, result = self._records[shapes]
        for old, new in zip(kept, inputs, strict=True):
            old.copy_(new)
        graph.replay()
        return result


def _optimizers(model: nn.Module, schedule: Schedule, rate: Tensor) -> list[torch.optim.Optimizer]:
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    hidden = [
        parameter
        for name, parameter in trained.items()
        if schedule.muon and parameter.ndim == 2 and "blocks." in name and "_mod." not in name
    ]
    others = [parameter for parameter in trained.values() if not any(parameter is matrix for matrix in hidden)]
    decay = schedule.weight_decay
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    replayed = rate.device.type == "cuda"
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True, capturable=replayed)
    ]
    if hidden:
        optimizers.append(Muon(hidden, rate, decay))
    return optimizers


def _place() -> tuple[int, int]:
    """Return this process's rank, and the number of processes."""
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
