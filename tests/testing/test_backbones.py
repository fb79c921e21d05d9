"""`check_backbone` passes for Qwen-Image, and each mistake of a family fails the check that is for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.base import LatentDistribution, PromptEmbeds
from knowcusbench.backbone.families.qwen_image import QwenImage
from knowcusbench.backbone.family import Family
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.testing import backbones, check_backbone
from knowcusbench.testing.tiny import tiny_qwen_image

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> QwenImageSpec:
    directory = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_qwen_image(directory)
    return QwenImageSpec(source=str(directory), dtype="float32", height=32, width=32, steps=3)


@pytest.fixture(scope="module")
def right(spec: QwenImageSpec) -> DiffusersBackbone:
    return spec.load()


def test_qwen_image_keeps_the_contract(spec: QwenImageSpec, tmp_path: Path) -> None:
    check_backbone(spec, tmp_path)


def test_a_specification_that_cannot_show_it_is_refused(spec: QwenImageSpec, tmp_path: Path) -> None:
    for changes in ({"dtype": "bfloat16"}, {"true_cfg_scale": 1.0}, {"source": "owner/name"}):
        with pytest.raises(ValueError, match="needs a directory as source, dtype float32, and guidance"):
            check_backbone(replace(spec, **changes), tmp_path)


class Sign(QwenImage):
    def predict(self, *args: Any) -> torch.Tensor:
        return -super().predict(*args)


class Time(QwenImage):
    def predict(self, pipeline: Any, latents: torch.Tensor, sigma: torch.Tensor, prompt: PromptEmbeds) -> torch.Tensor:
        return super().predict(pipeline, latents, 1 - sigma, prompt)


class OneLevel(QwenImage):
    def predict(self, pipeline: Any, latents: torch.Tensor, sigma: torch.Tensor, prompt: PromptEmbeds) -> torch.Tensor:
        return super().predict(pipeline, latents, sigma[:1].expand(len(sigma)), prompt)


class Dropped(QwenImage):
    """The transformer is trained without the prompt's first two tokens."""

    def predict(self, pipeline: Any, latents: torch.Tensor, sigma: torch.Tensor, prompt: PromptEmbeds) -> torch.Tensor:
        return super().predict(pipeline, latents, sigma, PromptEmbeds(prompt.embeds[:, 2:], None))


class Detached(QwenImage):
    def predict(self, pipeline: Any, latents: torch.Tensor, sigma: torch.Tensor, prompt: PromptEmbeds) -> torch.Tensor:
        return super().predict(pipeline, latents, sigma, PromptEmbeds(prompt.embeds.detach(), None))


class Shift(QwenImage):
    def noise_shift(self, scheduler: Any) -> float:
        return 3.0


class Reach(QwenImage):
    def taps(self, layer_count: int) -> Sequence[int]:
        return (layer_count - 1,)


class Mask(QwenImage):
    """Says that padding is what a prompt has."""

    def encode(self, *args: Any) -> PromptEmbeds:
        embeds = super().encode(*args).embeds
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        mask[:, -1] = 0
        return PromptEmbeds(embeds, mask)


class Template(QwenImage):
    """Questions without the system's words."""

    def template(self, pipeline: Any, question: str) -> str:
        return super().template(pipeline, question).partition("<|im_end|>\n")[2]


class Posterior(QwenImage):
    def posterior(self, vae: Any, pixels: torch.Tensor) -> LatentDistribution:
        found = super().posterior(vae, pixels)
        return replace(found, mean=found.mean + 0.3)


class Deviation(QwenImage):
    def posterior(self, vae: Any, pixels: torch.Tensor) -> LatentDistribution:
        found = super().posterior(vae, pixels)
        return replace(found, std=found.std * 2)


class Conditions(QwenImage):
    """Draws without the prompt's last tokens."""

    def conditions(self, prompt: PromptEmbeds, negative: PromptEmbeds | None, count: int) -> dict[str, Any]:
        return super().conditions(PromptEmbeds(prompt.embeds[:, :-2], None), negative, count)


class Width(QwenImage):
    def embeds_width(self, transformer: Mapping[str, Any]) -> int:
        return 2 * super().embeds_width(transformer)


MUTANTS: dict[type[Family], tuple[Callable[..., None], str]] = {
    Sign: (backbones.check_velocity, "of the way off"),
    Time: (backbones.check_velocity, "of the way off"),
    Dropped: (backbones.check_velocity, "of the way off"),
    OneLevel: (backbones.check_own_levels, "must not depend on the batch"),
    Detached: (backbones.check_gradients, "differentiable in the embeddings"),
    Shift: (backbones.check_training_levels, "noise_shift is 3"),
    Reach: (backbones.check_reach, "decoder layer 5 moves 1.00 of an embedding, reach says 0.00"),
    Mask: (backbones.check_questions, "the mask must mark"),
    Template: (backbones.check_questions, "tokens of a question"),
    Posterior: (backbones.check_latents, "undo the normalisation"),
    Deviation: (backbones.check_latents, "standard deviation"),
    Conditions: (backbones.check_images, "plain pipeline's call"),
    Width: (backbones.check_counts, "embeds_width"),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mistake_fails_its_check(mutant: type[Family], spec: QwenImageSpec, right: DiffusersBackbone) -> None:
    @dataclass(frozen=True, kw_only=True)
    class MutantSpec(QwenImageSpec):
        family: ClassVar[Family] = mutant()

    check, said = MUTANTS[mutant]
    wrong_spec = MutantSpec(**vars(spec))
    wrong = DiffusersBackbone(wrong_spec, right._pipeline, torch.device("cpu"))
    takes_spec = check in (backbones.check_images, backbones.check_counts)
    with pytest.raises(AssertionError, match=said):
        check(*((wrong_spec, wrong) if takes_spec else (wrong,)))
