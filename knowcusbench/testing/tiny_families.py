"""Pipelines of every backbone family with tiny, untrained models, in diffusers' directory format.

A few hundred kilobytes each, written in a second. All of a family's classes, files and traps are there: headless text
encoders, taps at the published depths, latent statistics other than zero and one. Nothing has been learned.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler

from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.toybox.shipped import WEIGHTS

WIDTH, LAYERS = 32, 6
"""Of the text encoders."""

CHAT = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{ message.content }}"
    "{%- else %}{%- for part in message.content %}{{ part.text }}{%- endfor %}{%- endif %}"
    "{{ '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
"""What Qwen3's chat template does with a single message."""

STATIC = {"num_train_timesteps": 1000, "shift": 6.0, "use_dynamic_shifting": False}
DYNAMIC = {"base_shift": 0.5, "max_shift": 1.15, "use_dynamic_shifting": True}
STRETCHED = {**DYNAMIC, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02}
"""Schedulers' settings."""


def tiny_flux2_klein(directory: Path, *, is_distilled: bool = False, seed: int = 0) -> None:
    """Write a `Flux2KleinPipeline`. Its text encoder has as many layers as the published one: the taps are fixed."""
    with _seeded(seed):
        transformer = diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        vae = diffusers.AutoencoderKLFlux2(**_vae(blocks=2), sample_size=64)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
        _write(
            directory,
            diffusers.Flux2KleinPipeline,
            scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
            tokenizer=_qwen_tokenizer(),
            text_encoder=_qwen3(layers=36),
            transformer=transformer,
            vae=vae,
            is_distilled=is_distilled,
        )


def tiny_z_image(directory: Path, *, shift: float = 6.0, seed: int = 0) -> None:
    """Write a `ZImagePipeline` with a headless text encoder, as the published one has."""
    with _seeded(seed):
        transformer = diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=WIDTH,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        )
        _write(
            directory,
            diffusers.ZImagePipeline,
            scheduler=FlowMatchEulerDiscreteScheduler(**{**STATIC, "shift": shift}),
            tokenizer=_qwen_tokenizer(),
            text_encoder=_qwen3(LAYERS).model,
            transformer=transformer,
            vae=_flux_vae(blocks=2),
        )


def tiny_lumina2(directory: Path, *, seed: int = 0) -> None:
    """Write a `Lumina2Pipeline`: another tokenizer, which puts a token in front of every text, and a headless encoder.
    The pipeline takes eight pixels to a latent for granted."""
    with _seeded(seed):
        tokenizer = _gemma_tokenizer()
        text_encoder = transformers.Gemma2Model(
            transformers.Gemma2Config(
                **_decoder(len(tokenizer), LAYERS),
                query_pre_attn_scalar=16,
                sliding_window=64,
                pad_token_id=0,
                eos_token_id=1,
                bos_token_id=2,
            )
        )
        transformer = diffusers.Lumina2Transformer2DModel(
            in_channels=4,
            hidden_size=WIDTH,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=8,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(300, 64, 64),
            cap_feat_dim=WIDTH,
        )
        _write(
            directory,
            diffusers.Lumina2Pipeline,
            scheduler=FlowMatchEulerDiscreteScheduler(**STATIC),
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            vae=_flux_vae(blocks=4),
        )


def tiny_qwen_image_21(directory: Path, *, seed: int = 0) -> None:
    """Write a `QwenImage21Pipeline`: no tokenizer but a processor, latents of sixteen pixels with an alpha channel."""
    with _seeded(seed):
        tokenizer = _qwen_tokenizer()
        channels = 8
        vae = diffusers.AutoencoderKLQwenImage21(
            base_dim=8,
            decoder_base_dim=8,
            z_dim=channels,
            dim_mult=[1, 1, 2, 2, 2],
            num_res_blocks=1,
            latents_mean=torch.linspace(-1, 1, channels).tolist(),
            latents_std=torch.linspace(0.5, 2, channels).tolist(),
        )
        transformer = diffusers.QwenImage21Transformer2DModel(
            in_channels=channels,
            out_channels=channels,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            context_in_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        )
        image_processor = transformers.Qwen2VLImageProcessor()
        _write(
            directory,
            diffusers.QwenImage21Pipeline,
            scheduler=FlowMatchEulerDiscreteScheduler(**STRETCHED),
            processor=transformers.Qwen3VLProcessor(
                image_processor, tokenizer, transformers.Qwen3VLVideoProcessor(), chat_template=CHAT
            ),
            text_encoder=_qwen3_vl(tokenizer),
            transformer=transformer,
            vae=vae,
        )


TINY: Mapping[str, Callable[[Path], None]] = {
    "flux2_klein": tiny_flux2_klein,
    "z_image": tiny_z_image,
    "lumina2": tiny_lumina2,
    "qwen_image_21": tiny_qwen_image_21,
}
"""What writes a tiny pipeline into a directory, by the name of the configuration."""


class _seeded:
    """The same weights every time (for one version of torch), whatever was drawn before, and no lines of libraries."""

    def __init__(self, seed: int) -> None:
        self._contexts = (quiet_libraries(), torch.random.fork_rng(devices=[]), torch.no_grad())
        self._seed = seed

    def __enter__(self) -> None:
        for context in self._contexts:
            context.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*error)


def _write(directory: Path, pipeline_class: Any, **components: Any) -> None:
    # Gates and modulations begin at zero, which would make every velocity blind to the prompt.
    for name, parameter in components["transformer"].named_parameters():
        if parameter.ndim > 1 or not parameter.any():
            parameter.normal_(std=0.2 if "norm" in name or not parameter.any() else parameter.shape[-1] ** -0.5)
    pipeline = pipeline_class(**components)
    pipeline.to(dtype=torch.bfloat16)
    pipeline.save_pretrained(directory, safe_serialization=True)


def _decoder(vocabulary: int, layers: int) -> dict[str, Any]:
    """What the configurations of all decoders have in common."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }


def _qwen3(layers: int) -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_decoder(len(_qwen_tokenizer()), layers)))


def _qwen3_vl(tokenizer: Any) -> Any:
    token = tokenizer.convert_tokens_to_ids
    sections = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_interleaved": True, "mrope_section": [4, 2, 2]}
    config = transformers.Qwen3VLConfig(
        text_config={**_decoder(len(tokenizer), LAYERS), "tie_word_embeddings": False, "rope_parameters": sections},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 1,
            "out_hidden_size": WIDTH,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


def _qwen_tokenizer() -> Any:
    """The embedded world's, whose words are single tokens, with Qwen3's chat template."""
    tokenizer = transformers.Qwen2Tokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer")
    tokenizer.chat_template = CHAT
    return tokenizer


def _gemma_tokenizer() -> Any:
    """The same words in Gemma's spelling, with its special tokens and its bytes."""
    backend = _qwen_tokenizer().backend_tokenizer
    spelt = {word: word.replace("Ġ", "▁").replace("Ċ", "\n") for word in backend.get_vocab()}
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = dict.fromkeys([*first, *sorted(spelt.values())])
    model = json.loads(backend.to_str())["model"]
    return transformers.GemmaTokenizer(
        vocab={word: place for place, word in enumerate(words)},
        merges=[tuple(spelt[half] for half in pair) for pair in model["merges"]],
        add_bos_token=True,
    )


def _vae(blocks: int) -> dict[str, Any]:
    return {
        "block_out_channels": (8,) * blocks,
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
    }


def _flux_vae(blocks: int) -> Any:
    return diffusers.AutoencoderKL(
        **_vae(blocks),
        sample_size=64,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
