"""An embedding is the same to its last bit in whatever batch it is computed."""

import random
from dataclasses import replace

import pytest
import torch
from conftest import SAMPLE_BENCHMARK
from omegaconf import OmegaConf

from knowcusbench.commands import compose_config
from knowcusbench.config import build
from knowcusbench.images import read_image
from knowcusbench.metrics.encoders import filled, filled_size

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


def test_on_a_gpu_every_batch_is_full(monkeypatch):
    monkeypatch.setattr("knowcusbench.metrics.encoders.resolve_device", torch.device)
    assert (filled_size(64, "cuda"), filled_size(64, "cpu"), filled_size(1, "cpu")) == (64, 8, 8)
    assert filled([1, 2], 4) == [1, 2, 2, 2]
    assert filled([1, 2, 3, 4, 5], 4) == [1, 2, 3, 4, 5]
