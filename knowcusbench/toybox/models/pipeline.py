"""The miniature backbone: an ordinary `QwenImagePipeline` directory with small, untrained models."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.toybox.world.vocabulary import sentences

SEED = 0

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

TEMPLATE_TEXT = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:",
    "system\n",
    "user\n",
    "assistant\n",
)
"""The pipeline's prompt template without its special tokens.

These words in the tokenizer's corpus make the template as long as in Qwen-Image: the pipeline expects 34 tokens before
the prompt.
"""


LAYERS, HEADS, CHANNELS = 6, 6, 12
"""Layers and heads (of width 32) of the embedded world's transformer, and channels of its latents."""


def build_pipeline(directory: Path, *, layers: int = LAYERS, heads: int = HEADS, channels: int = CHANNELS) -> None:
    """Write an untrained pipeline, the same weights every time (for one version of torch)."""
    tokenizer = build_tokenizer()
    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = QwenImagePipeline(
            scheduler=build_scheduler(),
            vae=build_vae(channels),
            text_encoder=build_text_encoder(tokenizer),
            tokenizer=tokenizer,
            transformer=build_transformer(layers, heads, channels),
        )
        pipeline.to(dtype=torch.bfloat16)
        pipeline.save_pretrained(directory, safe_serialization=True)


def build_tokenizer() -> Qwen2Tokenizer:
    """Train a byte-level BPE with Qwen's pre-tokenizer and chat tokens on the world's sentences.

    The world's words are single tokens, and any other text is spelt in bytes.
    """
    backend = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    model = json.loads(backend.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
    )


def _corpus() -> Iterator[str]:
    yield from TEMPLATE_TEXT
    yield from sentences()


def build_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Build six decoder layers of width 192, and a vision tower only because the class needs one.

    Input and output embeddings are tied, as in the small models of the Qwen2.5 family.
    """
    token = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            # The three sections (time, height, width) sum to half of the head dimension.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [4, 6, 6],
            },
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 192,
            "fullatt_block_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def build_transformer(
    layers: int = LAYERS, heads: int = HEADS, channels: int = CHANNELS
) -> QwenImageTransformer2DModel:
    """Build MMDiT blocks whose width is 32 times the number of heads."""
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * channels,
        out_channels=channels,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=192,
        axes_dims_rope=(8, 12, 12),
    )


def build_vae(channels: int = CHANNELS) -> AutoencoderKLQwenImage:
    """Build a VAE with four pixels per latent and direction."""
    return AutoencoderKLQwenImage(
        base_dim=16,
        z_dim=channels,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Build a scheduler with Qwen-Image's settings."""
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        num_train_timesteps=1000,
        shift=1.0,
        shift_terminal=0.02,
        time_shift_type="exponential",
        use_dynamic_shifting=True,
    )
