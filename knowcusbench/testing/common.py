"""Helpers of the checks of methods and metrics."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def require(kept: bool, broken: str) -> None:
    """Raise AssertionError with the sentence `broken`, which names the broken promise, unless `kept`."""
    # Not `assert`: the checks must also work under `python -O`.
    if not kept:
        raise AssertionError(broken)


def global_random_state() -> tuple[Any, ...]:
    """Return the states of all global generators, for comparison."""
    _, keys, *rest = np.random.get_state()
    generators = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return (
        random.getstate(),
        np.asarray(keys).tobytes(),
        tuple(rest),
        *(state.numpy().tobytes() for state in generators),
    )


@contextmanager
def other_global_random_state() -> Iterator[None]:
    """Reseed all global generators for the block; a result that depends on them changes."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
