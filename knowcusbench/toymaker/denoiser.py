"""Stage `dit`: train the transformer to draw from the text encoder's hidden states (`examples`).

In addition to the velocity, a temporary head reads from the states of a middle block which thing with which attributes
is in each cell of the clean picture. Like representation alignment (arXiv 2410.06940), which uses the features of
another network, it makes things follow their words much earlier.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.transformers import transformer_qwenimage
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from knowcusbench.machine.device import fast_dtype
from knowcusbench.storage.files import atomic_path
from knowcusbench.toybox.models.pipeline import build_transformer
from knowcusbench.toymaker.examples import MEANINGS, load_examples, meanings
from knowcusbench.toymaker.loop import Losses, Schedule, compile_layers, in_processes, mixed, train

SCHEDULE = Schedule(
    steps=82_000, batch_size=64, learning_rate=1e-3, warmup=100, decay_from=0.9195, muon=True, average=0.998
)

FREE_STEPS = 8_100
"""Number of first steps with things anywhere in the picture; later they have settled layouts."""

READ_BLOCK = 1
MEANING_WEIGHT = 0.05


def train_transformer(
    models: Path, tokenizer: Qwen2Tokenizer, folder: Path, device: torch.device, processes: int = 1
) -> None:
    """Train, and write `folder / "transformer"` (fp32).

    Args:
        models: folder of the trained `vae` and `text_encoder`.
    """
    in_processes(processes, _train_process, folder, models, tokenizer, device)


def _train_process(
    rank: int, processes: int, folder: Path, models: Path, tokenizer: Qwen2Tokenizer, device: torch.device
) -> None:
    transformer = _train(rank, processes, models, tokenizer, folder, device)
    if rank == 0:
        with atomic_path(folder / "transformer") as temporary:
            transformer.save_pretrained(temporary)


def _train(
    rank: int, processes: int, models: Path, tokenizer: Qwen2Tokenizer, folder: Path, device: torch.device
) -> QwenImageTransformer2DModel:
    examples = load_examples(models, tokenizer, folder, device, rank, processes)
    torch.manual_seed(SCHEDULE.seed)
    transformer = build_transformer().to(device)
    _start_at_zero(transformer)
    width = transformer.inner_dim
    head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, MEANINGS)).to(device)
    states: list[Tensor] = []
    transformer.transformer_blocks[READ_BLOCK].register_forward_hook(
        lambda block, arguments, output: states.append(output[1])
    )
    for block in transformer.transformer_blocks:
        compile_layers(block, device)
    masters = dict(transformer.named_parameters())
    share = SCHEDULE.batch_size // processes
    dice = torch.Generator(device)
    dtype = getattr(torch, fast_dtype(device))

    def draw(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        batch = examples.batch("free" if step < FREE_STEPS else "settled", share, generator)
        dice.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        noise = torch.randn(batch.latents.shape, generator=dice, device=device)
        return (*batch, noise, _noise_levels(share, dice))

    def losses(
        latents: Tensor,
        covered: Tensor,
        words: Tensor,
        weights: Tensor,
        embeds: Tensor,
        mask: Tensor,
        noise: Tensor,
        sigma: Tensor,
    ) -> Losses:
        noisy = (1 - sigma.view(-1, 1, 1)) * latents.float() + sigma.view(-1, 1, 1) * noise
        # A whole step is in bf16, where that is fast, like the pipeline's drawing; the optimised weights are in fp32.
        predicted = torch.func.functional_call(
            transformer,
            {name: parameter.to(dtype) for name, parameter in masters.items()},
            kwargs={
                "hidden_states": noisy.to(dtype),
                "timestep": sigma,
                "encoder_hidden_states": embeds.to(dtype),
                "encoder_hidden_states_mask": mask,
                "img_shapes": [[(1, 8, 8)]] * share,
                "return_dict": False,
            },
        )[0]
        with mixed(device):
            told = head(states.pop())
        missed = nn.functional.binary_cross_entropy_with_logits(
            told.float(), meanings(covered, words), reduction="none"
        )
        return {
            "velocity": (weights[:, :, None] * (predicted.float() - (noise - latents.float())).square()).mean(),
            "meaning": MEANING_WEIGHT * missed.sum(dim=2).mean(),
        }

    with explicit_attention(device), quick_forms():
        model = nn.ModuleDict({"transformer": transformer, "head": head})
        train(model, losses, SCHEDULE, folder, label="dit", draw=draw)
    return transformer


def _noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Draw noise levels: two thirds logit-normal about 0.8, one third uniform.

    A whole description determines the whole picture, so its content is decided where there is almost only noise; and
    half of the sampler's few steps are above 0.7.
    """
    device = generator.device
    normal = (1.4 + 1.2 * torch.randn(count, generator=generator, device=device)).sigmoid()
    uniform = torch.rand(count, generator=generator, device=device)
    return torch.where(torch.rand(count, generator=generator, device=device) < 0.65, normal, uniform)


def _start_at_zero(transformer: QwenImageTransformer2DModel) -> None:
    """Initialise the blocks as the identity, and the output as zero."""
    for block in transformer.transformer_blocks:
        for modulation in (block.img_mod, block.txt_mod):
            nn.init.zeros_(modulation[-1].weight)
            nn.init.zeros_(modulation[-1].bias)
    for layer in (transformer.norm_out.linear, transformer.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


@contextmanager
def explicit_attention(device: torch.device) -> Iterator[None]:
    """Use unfused attention on the CPU inside the block.

    For the short sequences of this world it trains faster than the fused kernel, by a third of a whole step.
    """
    fused = nn.functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -1e4) if attn_mask.dtype == torch.bool else scores + attn_mask
        attended: Tensor = scores.softmax(dim=-1).to(value.dtype) @ value
        return attended

    if device.type == "cpu":
        nn.functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = fused


@contextmanager
def quick_forms() -> Iterator[None]:
    """Simplify two functions of the transformer inside the block.

    Rotary embeddings are computed in real numbers, which can be compiled, instead of complex ones. The prompts' lengths
    are not computed: that would wait for the device, and they are not used.
    """
    embeddings = transformer_qwenimage.QwenEmbedRope
    rotation, forward = transformer_qwenimage.apply_rotary_emb_qwen, embeddings.forward
    measure = transformer_qwenimage.compute_text_seq_len_from_mask

    def rotate(x: Tensor, frequencies: Tensor, use_real: bool = False) -> Tensor:
        cosine, sine = frequencies[:, None, :, 0], frequencies[:, None, :, 1]
        real, imaginary = x.view(*x.shape[:-1], -1, 2).float().unbind(-1)
        turned = (real * cosine - imaginary * sine, real * sine + imaginary * cosine)
        return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)

    def turns(self: Any, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        return tuple(torch.view_as_real(turns) for turns in forward(self, *arguments, **options))

    transformer_qwenimage.apply_rotary_emb_qwen, embeddings.forward = rotate, turns
    transformer_qwenimage.compute_text_seq_len_from_mask = lambda states, mask: (states.shape[1], None, mask.bool())
    try:
        yield
    finally:
        transformer_qwenimage.apply_rotary_emb_qwen, embeddings.forward = rotation, forward
        transformer_qwenimage.compute_text_seq_len_from_mask = measure
