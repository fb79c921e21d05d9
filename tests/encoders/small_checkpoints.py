"""Small checkpoints with fixed random weights, in the file formats and classes of the published ones."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import Dinov2Config, Dinov2Model, SiglipConfig, SiglipModel, ViTConfig, ViTModel

HPS_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 56, "layers": 2, "width": 80, "head_width": 40, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 4, "layers": 2},
}
"""ViT-H-14's keys, with smaller numbers."""

SIGLIP_TEXTS = ["a photo of a dog on the beach at sunset", "a toy duck in place 0123456789 with a hat"]


def scattered(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give the model weights large enough to tell photographs apart; the global generator is left unchanged."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def build_dino(directory: Path) -> None:
    """Write a `ViTModel` without a pooler, like facebook/dino-vits16."""
    config = ViTConfig(hidden_size=48, num_hidden_layers=3, num_attention_heads=6, intermediate_size=192)
    scattered(ViTModel(config, add_pooling_layer=False)).save_pretrained(directory)


def build_dinov2(directory: Path) -> None:
    """Write a `Dinov2Model`, like facebook/dinov2-small: 37 x 37 position embeddings."""
    config = Dinov2Config(hidden_size=48, num_hidden_layers=3, num_attention_heads=6, image_size=518, patch_size=14)
    scattered(Dinov2Model(config)).save_pretrained(directory)


def build_hps(directory: Path) -> None:
    """Write two pickles as in xswu/HPSv2, and the architecture's configuration."""
    directory.mkdir()
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": HPS_CONFIG}))
    for seed, file in enumerate(("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt")):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            weights = open_clip.CLIP(**HPS_CONFIG).state_dict()
        torch.save({"state_dict": {name: tensor.half() for name, tensor in weights.items()}}, directory / file)


def siglip_model(vocabulary: int) -> SiglipModel:
    config = SiglipConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "projection_size": 48,
        },
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
    )
    model = scattered(SiglipModel(config))
    model.logit_scale.data.fill_(4.7)
    model.logit_bias.data.fill_(-12.9)
    return model


def write_siglip_processor(directory: Path, resample: int, tokenizer: dict[str, Any]) -> None:
    """Write `preprocessor_config.json` and `tokenizer_config.json` as in google/siglip*."""
    images = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "resample": resample,
        "rescale_factor": 1 / 255,
        "size": {"height": 56, "width": 56},
    }
    common = {"model_input_names": ["input_ids"], "model_max_length": 64, "processor_class": "SiglipProcessor"}
    (directory / "preprocessor_config.json").write_text(json.dumps(images))
    (directory / "tokenizer_config.json").write_text(json.dumps(common | tokenizer))


def build_siglip2(directory: Path) -> None:
    """Write a checkpoint like google/siglip2-so400m-patch14-384.

    Its `tokenizer.json` has Gemma's kind of byte-pair encoding, which adds the end token and does not lower-case;
    resizing is bilinear.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.train_from_iterator(SIGLIP_TEXTS, trainers.BpeTrainer(special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    siglip_model(tokenizer.get_vocab_size()).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    tokens = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    gemma = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True}
    write_siglip_processor(directory, 2, gemma | tokens | {"padding_side": "right"})
