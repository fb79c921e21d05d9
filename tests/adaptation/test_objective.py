"""The batches and the loss of a DreamBooth step."""

from collections.abc import Iterator
from itertools import islice

import pytest
import torch

from knowcusbench.adaptation.dreambooth import Objective, posterior_draws
from knowcusbench.backbone.base import LatentDistribution, PromptEmbeds


def numbered_posterior(count: int, std: float) -> LatentDistribution:
    """Return a posterior in which image n has latents of mean n."""
    mean = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 1, 2, 2)
    return LatentDistribution(mean, torch.full_like(mean, std))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_image_has_its_turn_before_any_comes_again(size: int) -> None:
    draws = posterior_draws(numbered_posterior(5, 0.0), size, torch.Generator().manual_seed(0))
    batches = list(islice(draws, 10))
    assert all(batch.shape == (size, 1, 2, 2) for batch in batches)
    order = [int(latents[0, 0, 0]) for batch in batches for latents in batch]
    for start in range(0, len(order) - 4, 5):
        assert sorted(order[start : start + 5]) == [0, 1, 2, 3, 4]


def test_the_posterior_is_drawn_anew_every_time() -> None:
    draws = posterior_draws(numbered_posterior(1, 0.5), 1, torch.Generator().manual_seed(0))
    values = torch.cat(list(islice(draws, 2000))).flatten()
    assert len(values.unique()) > 7900
    assert values.mean().item() == pytest.approx(0.0, abs=0.02)
    assert values.std().item() == pytest.approx(0.5, rel=0.03)


class RecordingBackbone:
    """Answers with a constant velocity, and records its inputs."""

    noise_shift = 1.0

    def __init__(self) -> None:
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def velocity(self, noisy: torch.Tensor, sigma: torch.Tensor, prompt_embeds: PromptEmbeds) -> torch.Tensor:
        self.asked.append((noisy, sigma))
        return torch.full_like(noisy, 0.25)


def constant(latents: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        yield latents


def test_a_step_asks_at_the_noisy_latents_and_compares_with_noise_minus_latents() -> None:
    latents = torch.full((2, 1, 2, 2), 3.0)
    model = RecordingBackbone()
    objective = Objective(constant(latents), PromptEmbeds(torch.zeros(1, 1, 1), None), weight=0.5)

    loss = objective.loss(model, torch.Generator().manual_seed(0))

    ((noisy, sigma),) = model.asked
    level = sigma.double().view(2, 1, 1, 1)
    noise = (noisy.double() - (1 - level) * 3.0) / level
    assert sigma[0] != sigma[1]
    assert loss.item() == pytest.approx(0.5 * float((0.25 - (noise - 3.0)).square().mean()), rel=1e-4)


def test_a_step_is_at_noise_levels_of_the_backbones_shift() -> None:
    even, shifted = RecordingBackbone(), RecordingBackbone()
    shifted.noise_shift = 3.0
    for model in (even, shifted):
        Objective(constant(torch.zeros(4, 1, 2, 2)), PromptEmbeds(torch.zeros(1, 1, 1), None), 1.0).loss(
            model, torch.Generator().manual_seed(0)
        )
    (_, level), (_, moved) = even.asked[0], shifted.asked[0]
    assert torch.allclose(moved, 3 * level / (1 + 2 * level))
