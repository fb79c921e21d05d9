"""Speed of the default metrics, against scoring each image separately: `make timing`.

    python -m knowcusbench.timing.metrics [--images 1000]

Both ways run on the same images in the same process, with the embedded world's encoders.
"""

import argparse
import random
import resource
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from knowcusbench.config.build import build
from knowcusbench.config.compose import compose_config
from knowcusbench.encoders.base import ImageEncoder, unit_norm
from knowcusbench.encoders.segmenters.compositing import cut_out
from knowcusbench.encoders.store import EmbeddingStore
from knowcusbench.machine.rates import seconds
from knowcusbench.metrics.base import Metric, ScoreItem
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_i_seg import ClipISeg
from knowcusbench.metrics.clip_t import ClipT
from knowcusbench.metrics.pickscore import PickScore
from knowcusbench.metrics.protocol import paired_cosine, scaled_cosine
from knowcusbench.storage.images import read_image
from knowcusbench.toybox.world.language import caption
from knowcusbench.toybox.world.render import render
from knowcusbench.toybox.world.world import draw_scene

ALONE = 50
"""Images scored separately; the time of one is their mean."""

GRID = 174_125
"""Images of the paper's full cross product."""

WIDTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        throughput(Path(folder), arguments.images)
        memory(Path(folder) / "store")


def throughput(folder: Path, count: int) -> None:
    metrics = default_metrics(folder)
    items = draw_items(folder, count)
    for metric in metrics.values():
        metric.score(items[:1])  # Load the encoders.
    values: dict[str, list[float]] = {}
    together = seconds(lambda: values.update({n: [s.value for s in m.score(items)] for n, m in metrics.items()}))
    again = seconds(lambda: [metric.score(items) for metric in metrics.values()])
    some = items[1 : 1 + ALONE]
    single: list[Mapping[str, float]] = []
    alone = seconds(lambda: single.extend(by_itself(metrics, item) for item in some)) / len(some) * count
    worst = max(abs(one[name] - values[name][place]) for place, one in enumerate(single, 1) for name in metrics)
    print(f"{', '.join(metrics)} of {count:,} images with {len(items[0].references)} references, one thread")
    print(f"  together              {together:8.1f} s  {count / together:7.1f} images/s")
    print(f"  again, from the store {again:8.1f} s  {together / again:7.1f} times faster")
    print(f"  each by itself        {alone:8.1f} s  {alone / together:7.1f} times slower (from {len(some)} images)")
    print(f"  largest difference    {worst:.1e}")


def default_metrics(folder: Path) -> dict[str, Metric]:
    """Return the metrics of the default configuration that need no truth, with an empty store."""
    config = compose_config(["benchmark=directory", "benchmark.path=.", f"cache_dir={folder / 'cache'}", "device=cpu"])
    nodes = OmegaConf.to_container(config.metrics, resolve=True, enum_to_str=True)
    assert isinstance(nodes, dict)
    return {str(name): build(node, f"metrics.{name!s}") for name, node in nodes.items()}


def draw_items(folder: Path, count: int) -> list[ScoreItem]:
    """Draw pictures of the embedded world; the first five are the references of all."""
    rng = random.Random("benchmark")
    files, texts = [], []
    for number in range(count + 5):
        scene = draw_scene(rng)
        files.append(folder / f"{number}.png")
        texts.append(caption(scene, rng))
        render(scene).save(files[-1])
    references = tuple(files[:5])
    pairs = zip(files[5:], texts[5:], strict=True)
    return [ScoreItem(file.stem, file, references, text, "thing") for file, text in pairs]


@torch.inference_mode()
def by_itself(metrics: Mapping[str, Metric], item: ScoreItem) -> dict[str, float]:
    """Score one image like a script without a cache."""
    scores = {}
    for name, metric in metrics.items():
        image = read_image(item.image)
        match metric:
            case ClipI() | ClipISeg():
                images = [image, *map(read_image, item.references)]
                if isinstance(metric, ClipISeg):
                    found = metric.segmenter.load().segment(images, item.class_noun)
                    images = [
                        cut_out(one, mask.mask, metric.background, metric.crop)
                        for one, mask in zip(images, found, strict=True)
                    ]
                first, *others = at_once(metric.encoder.load(), images)
                scores[name] = paired_cosine(first, torch.stack(others), metric.pairing)
            case ClipT() | PickScore():
                encoder = metric.encoder.load()
                (first,), (text,) = at_once(encoder, [image]), unit_norm(encoder.text_features([item.prompt]))
                scores[name] = scaled_cosine(first, text, metric.factor(), metric.clamp)
    return scores


def at_once(encoder: ImageEncoder, images: Sequence[Image.Image]) -> Tensor:
    """Embed images in one unpadded batch."""
    return unit_norm(encoder.image_features(torch.stack([encoder.preprocess(image) for image in images])))


def memory(folder: Path) -> None:
    """Print the memory that a store of the full grid's embeddings adds to a process."""
    rows = np.random.default_rng(0).standard_normal((512, WIDTH), dtype=np.float32)
    before = resident()
    store = EmbeddingStore(folder)
    keys = [f"{number:064x}" for number in range(GRID)]

    def fill() -> None:
        for start in range(0, GRID, 512):
            store.fetch(keys[start : start + 512], lambda missing: rows[: len(missing)])

    took = seconds(fill)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{GRID:,} embeddings of {WIDTH} numbers: {size / 1e6:.0f} MB in {len(list(folder.iterdir()))} files")
    print(f"  written in {took:.1f} s; at most {(resident() - before) / 1e6:.0f} MB more in memory")
    print(f"  opened again in {seconds(lambda: EmbeddingStore(folder)):.1f} s")


def resident() -> float:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
