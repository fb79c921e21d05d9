"""How much memory the transformer and the VAE need beside their weights, found by running them without storage."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from knowcusbench.backbone.checkpoint import Checkpoint
from knowcusbench.backbone.counts import PROMPT_TOKENS
from knowcusbench.backbone.footprint import few_blocks
from knowcusbench.backbone.targets import lora_targets


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention as a GPU computes it, without the matrix of all scores: on the meta device torch would make it."""

    def fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        return output

    original = nn.functional.scaled_dot_product_attention
    nn.functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = original


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made in a block and are alive at the same time.

    `peak` is what an allocator must provide beside what was there before; workspaces of kernels and fragmentation come
    on top.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given | self._seen:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@lru_cache
def drawing_bytes(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype,
    height: int,
    width: int,
    batch: int,
    decoded: int,
    vae_tile: int | None,
) -> int:
    """Return the bytes of a forward for `batch` images at once, or of decoding `decoded` of them at once, whichever
    needs more. With `vae_tile` the VAE decodes squares of this size."""
    # Without gradients the blocks use the same memory one after another.
    transformer, vae = _models(checkpoint, dtype, blocks=1)
    stride = checkpoint.pixels_per_token // 2
    with torch.no_grad(), fused_attention(), PeakBytes() as forward:
        _velocity(transformer, height // stride // 2, width // stride // 2, batch)
    rows, columns = (min(size, vae_tile or size) for size in (height, width))
    latents = torch.empty(decoded, vae.config.z_dim, 1, rows // stride, columns // stride, device="meta", dtype=dtype)
    with torch.no_grad(), fused_attention(), PeakBytes() as decoding:
        vae.decode(latents)
    # The images that wait, the tiles, and the image that they are put together to.
    pixels = (batch - decoded + (2 * decoded if vae_tile else 0)) * 3 * height * width * dtype.itemsize
    return int(max(forward.peak, decoding.peak + pixels))


@lru_cache
def training_bytes(
    checkpoint: Checkpoint, *, dtype: torch.dtype, height: int, width: int, rank: int, checkpointing: bool
) -> int:
    """Of a LoRA training step at batch 1: forward, backward, fp32 adapters, their gradients and AdamW's two moments."""
    few, blocks = (2, 3), int(checkpoint.transformer["num_layers"])
    # Every block adds the same.
    first, second = (
        _step_bytes(checkpoint, dtype, height, width, rank, checkpointing=checkpointing, blocks=count) for count in few
    )
    return first + (second - first) * (blocks - few[0])


def _step_bytes(
    checkpoint: Checkpoint, dtype: torch.dtype, height: int, width: int, rank: int, *, checkpointing: bool, blocks: int
) -> int:
    transformer, _ = _models(checkpoint, dtype, blocks)
    transformer.requires_grad_(False)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(lora_targets(transformer)))
    inject_adapter_in_model(config, transformer, low_cpu_mem_usage=True)
    adapters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in adapters:
        parameter.data = parameter.data.float()
    pixels = checkpoint.pixels_per_token
    with fused_attention(), PeakBytes() as step:
        loss = _velocity(transformer, height // pixels, width // pixels, 1).float().square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
    return int(step.peak + 3 * sum(parameter.nbytes for parameter in adapters))


def _models(checkpoint: Checkpoint, dtype: torch.dtype, blocks: int) -> tuple[Any, Any]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            return few_blocks(checkpoint, blocks), AutoencoderKLQwenImage.from_config(checkpoint.vae)
    finally:
        torch.set_default_dtype(before)


def _velocity(transformer: nn.Module, rows: int, columns: int, batch: int) -> Tensor:
    config: Any = transformer.config
    dtype: Any = transformer.dtype
    output: Tensor = transformer(
        hidden_states=torch.empty(batch, rows * columns, config.in_channels, device="meta", dtype=dtype),
        timestep=torch.empty(batch, device="meta", dtype=dtype),
        encoder_hidden_states=torch.empty(batch, PROMPT_TOKENS, config.joint_attention_dim, device="meta", dtype=dtype),
        img_shapes=[[(1, rows, columns)]] * batch,
        return_dict=False,
    )[0]
    return output
