"""A digest of resident weights, fast enough to take after every adaptation."""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

CHUNK = 1 << 24
"""Elements handled at a time: bounds the extra memory to a few hundred MB whatever the size of the model."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_digest(modules: Mapping[str, nn.Module], device: torch.device | None = None) -> str:
    """Hex digest over names, shapes, dtypes and bits of all parameters and buffers.

    Each tensor is reduced on `device`, or where it lies, to one 64-bit checksum, `sum_i (2i + 1) * bits_i` modulo 2^64,
    which changes with any single element and with a swap of two; the checksums are hashed with SHA-256. It detects
    accidents, not adversaries.
    """
    digest = hashlib.sha256()
    for module_name, module in sorted(modules.items()):
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, whole in sorted(tensors.items()):
            for part, tensor in _stored(name, whole.detach()):
                digest.update(f"{module_name}.{part} {tuple(tensor.shape)} {tensor.dtype} ".encode())
                digest.update(str(checksum(tensor, device=device)).encode())
    return digest.hexdigest()


def _stored(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What is in memory: of a quantised tensor its integers and their scales."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        if (inner := getattr(tensor, part)) is not None:
            yield from _stored(f"{name}.{part}", inner)


@torch.no_grad()
def checksum(tensor: Tensor, chunk: int = CHUNK, device: torch.device | None = None) -> int:
    """The checksum of one tensor, the same for every `chunk` and `device`."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    bits = tensor.detach().contiguous().flatten().view(INTEGERS[tensor.element_size()])
    device = device or bits.device
    total = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, bits.numel(), chunk):
        part = bits[start : start + chunk].to(device).to(torch.int64)
        weights = torch.arange(start, start + part.numel(), device=device).mul_(2).add_(1)
        total += (part * weights).sum()
    return int(total)
