"""Checks of losses, on CPU and GPU."""

import pytest
import torch

from knowcusbench.adaptation.losses import CHECK_EVERY, Losses
from knowcusbench.adapters.types import Adapter
from knowcusbench.errors import MethodError

ADAPTER = Adapter.from_factors({"layer": (torch.ones(1, 3), torch.ones(2, 1))})


class OnGpu:
    """A loss that claims to be on a GPU."""

    device = torch.device("cuda")

    def __init__(self, value: float) -> None:
        self._value = value

    def detach(self) -> torch.Tensor:
        return torch.tensor(self._value)


@pytest.mark.parametrize("broken", [3, CHECK_EVERY, CHECK_EVERY + 1])
def test_the_step_is_the_first_that_is_not_finite_also_where_it_is_seen_later(broken: int) -> None:
    losses = Losses("concept 'dog'", "the.rate")
    seen = -(-broken // CHECK_EVERY) * CHECK_EVERY
    for step in range(1, seen):
        losses.add(OnGpu(float("nan") if step >= broken else 1.0))
    with pytest.raises(MethodError, match=rf"^concept 'dog': loss is not finite at step {broken}; lower the\.rate$"):
        losses.add(OnGpu(float("nan")))


def test_the_last_steps_are_looked_at_in_the_end() -> None:
    losses = Losses("concept 'dog'", "the.rate")
    losses.add(OnGpu(1.0))
    losses.add(OnGpu(float("inf")))
    with pytest.raises(MethodError, match="step 2"):
        losses.trained(ADAPTER)


def test_weights_that_the_last_step_broke_are_named() -> None:
    losses = Losses("concept 'dog'", "the.rate")
    losses.add(torch.tensor(1.0))
    assert losses.trained(ADAPTER) is ADAPTER
    broken = Adapter.from_factors({"layer": (torch.ones(1, 3), torch.tensor([[1.0], [float("nan")]]))})
    with pytest.raises(MethodError, match=r"layer\.lora_B\.weight is not finite after step 1; lower the\.rate"):
        losses.trained(broken)


def test_means_are_of_the_steps_asked_for() -> None:
    losses = Losses("", "")
    for value in (4.0, 2.0, 1.0):
        losses.add(torch.tensor(value))
    assert losses.mean(slice(-2, None)) == 1.5
