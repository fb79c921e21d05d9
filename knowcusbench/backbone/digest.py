"""A digest of resident weights, fast enough to take after every adaptation."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

CHUNK = 1 << 24
"""Elements handled at a time: bounds the extra memory to a few hundred MB whatever the size of the model."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_digest(modules: Mapping[str, nn.Module]) -> str:
    """Hex digest over names, shapes, dtypes and bits of all parameters and buffers.

    Each tensor is reduced where it lies to one 64-bit checksum, `sum_i (2i + 1) * bits_i` modulo 2^64, which
    changes with any single element and with a swap of two; the checksums are hashed with SHA-256. It detects
    accidents, not adversaries.
    """
    digest = hashlib.sha256()
    for module_name, module in sorted(modules.items()):
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{module_name}.{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
            digest.update(str(checksum(tensor)).encode())
    return digest.hexdigest()


@torch.no_grad()
def checksum(tensor: Tensor, chunk: int = CHUNK) -> int:
    """The checksum of one tensor, the same for every `chunk`."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    bits = tensor.detach().contiguous().flatten().view(INTEGERS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for start in range(0, bits.numel(), chunk):
        part = bits[start : start + chunk].to(torch.int64)
        weights = torch.arange(start, start + part.numel(), device=bits.device).mul_(2).add_(1)
        total += (part * weights).sum()
    return int(total)
