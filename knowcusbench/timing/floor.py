"""Cost of a bench against the cost of its operations: `make timing`.

    python -m knowcusbench.timing.floor [--concepts 2] [--dtype auto]

Runs all stages for some concepts of the embedded benchmark in this process, on one thread and with an empty cache.
Prints CPU seconds by stage, and the seconds of the counted operations of training and drawing at the measured rate of a
matrix product. A stage's other work (prompts, edits, metrics, files) is in its seconds and not in the floor.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from knowcusbench.adaptation.dreambooth import DreamBooth
from knowcusbench.adapters.lora import adapted_layers, trainable
from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.base import Backbone, resident
from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.machine.rates import product_rates
from knowcusbench.run.estimate import effects_pictures
from knowcusbench.run.prepare import prepare
from knowcusbench.run.run import Run
from knowcusbench.stages.run import STAGES

PROMPT = "a photo of {} in the forest"
"""A prompt of typical length: the operations of a forward hardly depend on it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--concepts", type=int, default=2)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder), arguments.concepts, arguments.dtype)
        assert isinstance(run.backbone, QwenImageSpec)
        dreambooth = vars(run.method)["dreambooth"]
        seconds = {stage.__name__: processor_seconds(partial(stage, run)) for stage in STAGES}
        operations = counted_operations(run, dreambooth, resident(run.backbone))
        rate = product_rates(torch.device("cpu"))[run.backbone.torch_dtype]
        samples = len(run.plan)
        print(f"\n{len(run.concepts)} concepts, {samples} samples, {run.backbone.dtype}, one thread")
        print("\n".join(lines(seconds, operations, rate)))


def open_run(folder: Path, concepts: int, dtype: str) -> Run:
    words = ["method=mokus", f"run.root={folder}", f"cache_dir={folder / 'cache'}", "device=cpu"]
    composed: DictConfig = compose_config([*words, f"backbone.dtype={dtype}"])
    names = sorted(path.stem for path in Path(composed.benchmark.path, "knowledge_data").glob("*.json"))
    composed.grid.concepts, composed.run.label = names[:concepts], "mokus"
    return prepare(*read_config(composed), makes_results=True)


def processor_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process, all threads, user and system: other processes hardly change them."""
    started = time.process_time()
    work()
    return time.process_time() - started


def counted_operations(run: Run, dreambooth: DreamBooth, backbone: Backbone) -> dict[str, float]:
    """Return floating-point operations of matrix products, convolutions and attention by stage.

    They are multiples of those of one training step and of one batch of images.
    """
    seeds = run.plan.groupby(["concept", "task", "knowledge", "prompt"], observed=True).size().max()
    image = cell_flops(backbone, int(seeds)) / int(seeds)
    step = step_flops(backbone, dreambooth)
    prompts = [
        (template.replace("{}", noun), number)
        for noun in {concept.class_noun for concept in run.concepts}
        for number, template in enumerate(dreambooth.prior_prompts if dreambooth.prior_images else ())
    ]
    # Class images shared by concepts are drawn once.
    class_images = {
        prompt: len(range(number, dreambooth.prior_images, len(dreambooth.prior_prompts))) for prompt, number in prompts
    }
    passes = sum(run.method.training_passes(concept) for concept in run.concepts)
    return {
        "adapt": passes / dreambooth.batch_size * step + sum(class_images.values()) * image,
        "generate": len(run.plan) * image,
        "effects": effects_pictures(run) * image,
    }


def cell_flops(backbone: Backbone, seeds: int) -> float:
    """Count the operations of the images of one prompt, drawn in one batch."""
    embeds = backbone.encode(PROMPT.format("a toy"))
    # The first call also encodes the negative prompt.
    backbone.sample(embeds, range(seeds))
    return counted(lambda: backbone.sample(embeds, range(seeds)))


def step_flops(backbone: Backbone, dreambooth: DreamBooth) -> float:
    """Count the operations of one forward and backward of a training batch."""
    targets = backbone.lora_targets
    if dreambooth.target_modules:
        targets = adapted_layers(backbone.transformer, dreambooth.target_modules)
    embeds, size = backbone.encode(PROMPT.format("a toy")), dreambooth.batch_size
    (latents,) = backbone.encode_images([backbone.sample(embeds, [0])[0]]).mean.unbind()
    batch, sigma = latents.expand(size, *latents.shape), torch.full((size,), 0.5, device=backbone.device)

    def step() -> None:
        backbone.velocity(batch, sigma, embeds).square().mean().backward()  # type: ignore[no-untyped-call]

    with trainable(backbone.transformer, targets, dreambooth.rank, dreambooth.alpha, 0):
        return counted(step)


def counted(work: Callable[[], object]) -> float:
    """Count the floating-point operations of a call."""
    # The counter does not see fused attention on the CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def lines(seconds: Mapping[str, float], operations: Mapping[str, float], rate: float) -> list[str]:
    """Return a line per stage, and their sum: counted operations, seconds at `rate`, CPU seconds, and the ratio."""
    table = [f"  products at {rate / 1e9:,.0f} GFLOP/s", f"  {'':10}{'TFLOP':>8}{'floor s':>10}{'CPU s':>10}"]
    whole = {"all": sum(seconds.values())}
    whole_work = {**operations, "all": sum(operations.values())}
    for name, taken in {**seconds, **whole}.items():
        if work := whole_work.get(name, 0.0):
            floor = work / rate
            table.append(
                f"  {name:10}{work / 1e12:8.2f}{floor:10.1f}{taken:10.1f}  {taken / floor:.2f} times the floor"
            )
        else:
            table.append(f"  {name:10}{'':18}{taken:10.1f}")
    return table


if __name__ == "__main__":
    main()
