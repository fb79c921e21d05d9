"""A GPU that is not there: fake tensors of "cuda:0" refuse, as real ones do, to meet those of the CPU."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import miniature_spec
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import Qwen2_5_VLForConditionalGeneration

from knowcusbench.backbone import QwenImageSpec, resident
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.checkpoint import open_checkpoint
from knowcusbench.backbone.counting import text_encoder_config
from knowcusbench.backbone.resident import DiffusersBackbone

GPU = torch.device("cuda:0")


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    with FakeTensorMode() as mode:
        yield mode


@pytest.fixture(params=["none", "text_encoder", "alternating"])
def backbone_there(
    request: pytest.FixtureRequest,
    miniature: Path,
    pipeline: QwenImagePipeline,
    fake: FakeTensorMode,
    monkeypatch: pytest.MonkeyPatch,
) -> DiffusersBackbone:
    """The miniature on the GPU. What asks for values, which fake tensors have none of, is left out."""
    checkpoint = open_checkpoint(QwenImageSpec.family, str(miniature), None, weights=False)
    torch.set_default_dtype(torch.bfloat16)
    try:
        transformer = QwenImageTransformer2DModel.from_config(checkpoint.transformer)
        vae = AutoencoderKLQwenImage.from_config(checkpoint.vae)
        text_encoder = Qwen2_5_VLForConditionalGeneration(text_encoder_config(checkpoint))
    finally:
        torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(resident, "not_finite", lambda *_: None)
    monkeypatch.setattr(resident, "weights_digest", lambda *_: "")
    spec = miniature_spec(miniature, dtype="bfloat16", offload=request.param, true_cfg_scale=2.0, vae_slicing=True)
    for model in (transformer, vae, text_encoder):
        monkeypatch.setattr(model, "to", partial(move, model))
    own = QwenImagePipeline(pipeline.scheduler, vae, text_encoder, pipeline.tokenizer, transformer)
    return DiffusersBackbone(spec, own, GPU)


def move(model: nn.Module, device: torch.device | str) -> nn.Module:
    """As `model.to(device)`, which can't exchange fake parameters. All get new storage, as on a real GPU."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    moved = torch.empty_like(tensor, device=device)
                    tensors[name] = nn.Parameter(moved, False) if isinstance(tensor, nn.Parameter) else moved
    return model


def there(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.device == GPU


def test_everything_that_is_computed_is_computed_there(
    backbone_there: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the prompts' embeddings, which diffusers cuts out by a mask's values."""
    backbone_there._bring(backbone_there.text_encoder)
    assert there(backbone_there.language_logits(torch.zeros(1, 3, dtype=torch.long, device=GPU)))
    width, channels = backbone_there.transformer.config.joint_attention_dim, backbone_there._pipeline.vae.config.z_dim
    prompt = PromptEmbeds(torch.empty(1, 7, width, device=GPU, dtype=torch.bfloat16), None)
    assert there(backbone_there.velocity(torch.empty(1, channels, 16, 16, device=GPU), torch.empty(1), prompt))
    backbone_there._negative = prompt
    monkeypatch.setattr(backbone_there._pipeline, "encode_prompt", lambda **given: (given["prompt_embeds"], None))
    latents = backbone_there._denoised(prompt, [1, 2])
    assert there(latents)
    waits = backbone_there.spec.offload != "none"
    assert backbone_there.text_encoder.lm_head.weight.device.type == ("cpu" if waits else "cuda")
    vae = backbone_there._pipeline.vae
    assert there(vae.decode(torch.empty(2, channels, 1, 16, 16, device=GPU, dtype=torch.bfloat16)).sample)
