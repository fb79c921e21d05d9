"""Memory for scoring, against the models' own shapes on the meta device."""

from pathlib import Path

import open_clip
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, SamConfig, SamModel

from knowcusbench.backbone.memory import PeakBytes, fused_attention
from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.segmenters.boxes import WholeImageBoxes
from knowcusbench.encoders.segmenters.sam import SamSpec
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_i_seg import ClipISeg
from knowcusbench.metrics.memory import MIB, PUBLISHED, scoring_bytes

CLIP = ClipSpec(source="timm/vit_base_patch32_clip_224.openai", device="cpu", batch_size=64)
VIT_H = {"hidden_size": 1280, "num_hidden_layers": 32, "global_attn_indexes": [7, 15, 23, 31], "mlp_dim": 5120}


@pytest.mark.parametrize(
    ("source", "make", "encode", "pixels"),
    [
        (CLIP.source, lambda: open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")), "encode_image", 224),
        ("openai/clip-vit-base-patch32", lambda: CLIPModel(CLIPConfig()), "get_image_features", 224),
        (
            "facebook/sam-vit-huge",
            lambda: SamModel(SamConfig(vision_config={**VIT_H, "num_attention_heads": 16})),
            "vision_encoder",
            1024,
        ),
    ],
)
def test_counts_are_those_of_the_models(source, make, encode, pixels) -> None:
    with torch.device("meta"):
        model, image = make().eval(), torch.empty(1, 3, pixels, pixels)
    with torch.no_grad(), fused_attention(), PeakBytes() as counted:
        getattr(model, encode)(image)
    parameters, activations = PUBLISHED[source]
    assert parameters == sum(tensor.numel() for tensor in [*model.parameters(), *model.buffers()])
    assert counted.peak / MIB == pytest.approx(activations, abs=0.1)


def test_an_encoder_counts_once_and_the_largest_batch() -> None:
    segmenter = SamSpec(source="facebook/sam-vit-huge", boxes=WholeImageBoxes(), device="cpu")
    clip, both = ClipI(encoder=CLIP), ClipISeg(encoder=CLIP, segmenter=segmenter)
    assert scoring_bytes([clip]) == 4 * 151_283_242 + int(64 * 1.8 * MIB)
    assert scoring_bytes([clip, both]) == 4 * (151_283_242 + 641_090_864) + 2148 * MIB
    assert scoring_bytes([]) == 0


def test_files_count_where_the_encoder_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    (tmp_path / "config.json").write_bytes(bytes(10))
    assert scoring_bytes([ClipI(encoder=ClipSpec(source=str(tmp_path), device="cpu"))]) == 1000
