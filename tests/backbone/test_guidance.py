"""Guidance in one batch, beside diffusers' pipeline, which computes one prompt after the other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import miniature_spec
from torch import nn

from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.families.qwen_image_guidance import guided, joint_guidance

PROMPT = "a red robot on the beach"


def test_guidance_goes_on_from_the_negative_prompt_and_keeps_each_tokens_norm() -> None:
    positive, negative = (torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found, given = guided(positive, negative, 3.0).double().numpy(), positive.double().numpy()
    wanted = 3 * given - 2 * negative.double().numpy()
    wanted *= np.linalg.norm(given, axis=-1, keepdims=True) / np.linalg.norm(wanted, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(guided(positive, negative, 1.0), positive)


@pytest.mark.parametrize("negative", [" ", "a very long negative prompt of many more words than the other", PROMPT])
def test_images_are_those_of_one_prompt_after_the_other(miniature: Path, negative: str) -> None:
    """In fp32, where rounding is far below a grey level; the negative prompt is shorter, longer or as long."""
    separate, joint = (
        miniature_spec(miniature, dtype="float32", negative_prompt=negative, joint_guidance=jointly).load()
        for jointly in (False, True)
    )
    expected, found = (backbone.sample(backbone.encode(PROMPT), [3, 4]) for backbone in (separate, joint))
    differences = [
        np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max()
        for one, other in zip(expected, found, strict=True)
    ]
    assert max(differences) <= 1
    unguided = miniature_spec(miniature, dtype="float32", true_cfg_scale=1.0).load()
    if negative != PROMPT:
        assert not np.array_equal(found[0], unguided.sample(unguided.encode(PROMPT), [3, 4])[0])


def test_an_image_does_not_depend_on_its_batch(miniature: Path) -> None:
    backbone = miniature_spec(miniature, joint_guidance=True).load()
    embeds = backbone.encode(PROMPT)
    together = backbone.sample(embeds, [1, 2, 3])
    for seed, image in zip((1, 2, 3), together, strict=True):
        assert np.array_equal(image, backbone.sample(embeds, [seed])[0])


def test_class_images_drawn_jointly_are_not_those_drawn_separately(miniature: Path) -> None:
    separate, joint = (miniature_spec(miniature, joint_guidance=jointly).load() for jointly in (False, True))
    assert separate.sampling != joint.sampling


def test_the_transformer_is_as_it_was_afterwards() -> None:
    class Doubling(nn.Module):
        def forward(self, *, hidden_states: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
            return (2 * hidden_states,)

    model, latents = Doubling(), torch.ones(1, 2, 3)
    prompt = PromptEmbeds(torch.ones(1, 2, 3), None)
    with joint_guidance(model, prompt, prompt, 2.0), pytest.raises(KeyError):
        model(hidden_states=latents)
    torch.testing.assert_close(model(hidden_states=latents)[0], 2 * latents)
