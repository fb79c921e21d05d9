"""An embedding is the same to its last bit in any batch."""

import random
from dataclasses import replace

import pytest
import torch
from conftest import SAMPLE_BENCHMARK
from omegaconf import OmegaConf

from knowcusbench.config.build import build
from knowcusbench.config.compose import compose_config
from knowcusbench.encoders.batching import PaddedBatches
from knowcusbench.errors import MetricError
from knowcusbench.storage.images import read_image

FILES = sorted((SAMPLE_BENCHMARK / "concept_image").rglob("*.jpg"))
TEXTS = [f"a photo of thing {number} on the beach" for number in range(len(FILES))]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    words = [f"cache_dir={tmp_path_factory.mktemp('cache')}", "benchmark=directory", "benchmark.path=.", "device=cpu"]
    return OmegaConf.to_container(compose_config(words).encoders, resolve=True)


def parts(values, sizes):
    rest = list(values)
    while rest:
        size = next(sizes)
        yield rest[:size]
        rest = rest[size:]


@pytest.mark.parametrize("name", ["clip", "preference"])
def test_no_bit_depends_on_the_batch(encoders, name):
    encoder = replace(build(encoders[name], name), store=None).load()
    images = [read_image(file) for file in FILES]
    whole = {"image": encoder.encode_images(images), "text": encoder.encode_texts(TEXTS)}
    for seed in range(4):
        dice = random.Random(seed)
        order = dice.sample(range(len(FILES)), len(FILES))
        split = list(parts(order, iter(lambda dice=dice: dice.choice([1, 1, 2, 3, 5, 8]), None)))
        for kind, encode, values in (("image", encoder.encode_images, images), ("text", encoder.encode_texts, TEXTS)):
            found = torch.cat([encode([values[place] for place in part]) for part in split])
            assert torch.equal(found, whole[kind][order]), (kind, seed)


class Device:
    """Computes batches of numbers, with room for a limited number at once."""

    def __init__(self, room, error=None):
        self.room, self.error = room, error or torch.OutOfMemoryError("CUDA out of memory")
        self.sizes = []

    def __call__(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return [2 * value for value in batch]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr("knowcusbench.encoders.batching.resolve_device", torch.device)


@pytest.mark.parametrize(
    ("device", "size", "sizes"), [("cuda", 4, [4, 4, 4]), ("cpu", 4, [8, 8, 8]), ("cpu", 64, [10]), ("cpu", 9, [9, 8])]
)
def test_a_batch_is_filled(gpu, device, size, sizes):
    compute = Device(64)
    assert [v for part in PaddedBatches(size, device).run(compute, range(10)) for v in part] == list(range(0, 20, 2))
    assert compute.sizes == sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_batch_without_room_is_halved_and_so_are_later_ones(gpu, error):
    compute, batches = Device(3, error), PaddedBatches(8, "cuda")
    assert [value for part in batches.run(compute, range(5)) for value in part] == [0, 2, 4, 6, 8]
    assert list(batches.run(compute, [1])) == [[2]]
    assert compute.sizes == [8, 4, 2, 2, 2, 2]


@pytest.mark.parametrize(("device", "sizes"), [("cuda", [4, 2, 1]), ("cpu", [20, 10, 8])])
def test_no_room_for_the_smallest_batch_is_one_line(gpu, device, sizes):
    compute = Device(0, MemoryError())
    with pytest.raises(MetricError, match=rf"no memory is left on {device} for a batch of {sizes[-1]} images"):
        list(PaddedBatches(sizes[0], device).run(compute, range(100)))
    assert compute.sizes == sizes


def test_another_error_is_not_taken_for_memory(gpu):
    with pytest.raises(RuntimeError, match="shapes"):
        list(PaddedBatches(8, "cuda").run(Device(0, RuntimeError("shapes do not fit")), [1]))


@pytest.mark.parametrize("name", ["clip", "preference"])
def test_halved_batches_give_the_same_embeddings(encoders, name, monkeypatch):
    encoder = replace(build(encoders[name], name), store=None, batch_size=32).build()
    images = [read_image(file) for file in FILES]
    whole = encoder.encode_images(images)
    features, sizes = encoder.image_features, []

    def short(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features(pixels)

    monkeypatch.setattr(encoder, "image_features", short)
    assert torch.equal(encoder.encode_images(images), whole)
    assert max(sizes) > 8
