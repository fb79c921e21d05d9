import pytest
import torch
from torch import nn

from knowcusbench.backbone.digest import checksum, weights_digest


def module(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    layer = nn.Linear(7, 5, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(35).view(5, 7) / 8)
        layer.bias.zero_()
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.complex64])
def test_checksum_is_the_weighted_sum_of_the_bits(dtype):
    values = torch.arange(-50, 51).to(dtype)
    raw = torch.view_as_real(values) if dtype.is_complex else values
    integers = {1: "u1", 2: "<i2", 4: "<i4", 8: "<i8"}[raw.element_size()]
    import numpy as np

    bits = np.frombuffer(raw.contiguous().view(torch.uint8).numpy().tobytes(), dtype=integers)
    expected = sum((2 * i + 1) * int(bit) for i, bit in enumerate(bits)) % 2**64
    assert checksum(values) % 2**64 == expected


def test_the_chunk_size_does_not_matter():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert len({checksum(values, chunk) for chunk in (1, 7, 999, 1000, 4096)}) == 1


def test_one_flipped_bit_changes_the_digest():
    layer = module()
    before = weights_digest({"layer": layer})
    layer.weight.data.view(torch.int16)[3, 4] ^= 1
    assert weights_digest({"layer": layer}) != before
    layer.weight.data.view(torch.int16)[3, 4] ^= 1
    assert weights_digest({"layer": layer}) == before


def test_a_swap_of_two_elements_changes_the_digest():
    layer = module()
    before = weights_digest({"layer": layer})
    layer.weight.data[0, [1, 2]] = layer.weight.data[0, [2, 1]]
    assert weights_digest({"layer": layer}) != before


def test_names_shapes_and_dtypes_count():
    layer = module()
    digests = {
        weights_digest({"layer": layer}),
        weights_digest({"other": layer}),
        weights_digest({"layer": nn.Sequential(layer)}),
        weights_digest({"layer": module(torch.float32)}),
    }
    layer.weight = nn.Parameter(layer.weight.data.view(7, 5))
    assert len(digests | {weights_digest({"layer": layer})}) == 5
