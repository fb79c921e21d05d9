"""Comparison of the GPU code paths with the CPU: `make check-gpu`.

    python -m knowcusbench.gpu.check [--seconds 240] [--only A1 A3] [--output FILE.jsonl]

The embedded world goes through every part of a run, on the GPU and on the CPU: weights, noise, encoding, drawing,
adapters and edits under every kind of offload, training, attention backends, the compiler, metrics, a full device, and
a whole command. Every line has the expected and the found value. Without a GPU the same steps compare the CPU with
itself, except those that need a GPU.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from knowcusbench.adaptation.cache import AdapterCache
from knowcusbench.adaptation.dreambooth import DreamBooth
from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.base import Backbone
from knowcusbench.backbone.noise import initial_noise
from knowcusbench.benchmark.release import load_benchmark
from knowcusbench.config.build import build
from knowcusbench.config.compose import compose_config, read_config
from knowcusbench.editors.base import Editor, facts_of
from knowcusbench.errors import exit_on_user_error
from knowcusbench.gpu.steps import Line, Steps, step_options
from knowcusbench.machine.device import fast_dtype, resolve_device
from knowcusbench.machine.out_of_memory import is_out_of_memory
from knowcusbench.metrics.base import Metric, ScoreItem
from knowcusbench.stages.drawing import BatchSizer

NOISE = "443a9fa4ffb0e222"
"""Digest of the noise of seed 0: the first digits of the SHA-256 of its fp32 values, under torch 2.14 on the CPU."""

PROMPT = "a photo of a green striped vase on the beach"
OFFLOADS = ("none", "text_encoder", "alternating")
EDITORS = ("ultraedit", "ultraedit_nullspace", "gated", "ft")
ATTENTION = ("native", "_native_flash", "_native_cudnn", "_native_efficient")
SEEDS = tuple(range(5))


def line(what: str, expected: object, found: object, ok: bool | None) -> Line:
    """Return a line of the file. `ok` is None for a value that is only reported."""
    return {"what": what, "expected": str(expected), "found": str(found), "ok": ok}


def same(what: str, expected: str, found: str, *, required: bool = True) -> Line:
    """Return a line that expects two digests to be equal."""
    return line(what, expected, found, expected == found if required else None)


class Checks:
    """The steps. `device` is the device to check; `folder` holds their files."""

    def __init__(self, device: torch.device, folder: Path) -> None:
        self.device, self.folder = device, folder
        # Emulated bf16 is a hundred times slower, and has no code path of its own.
        self.dtypes = ["float32", *(["bfloat16"] if fast_dtype(device) == "bfloat16" else [])]

    def settings(self, *words: str) -> Any:
        """Return the composed configuration of the embedded world, with short edits and trainings."""
        quick = ("editor.rounds=3", "recipe.dreambooth.steps=20", "recipe.dreambooth.prior_images=0")
        place = (f"cache_dir={self.folder}", f"run.root={self.folder}", f"device={self.device}")
        return read_config(compose_config([*place, *quick, *words]))[0]

    def backbone(self, **changes: Any) -> Backbone:
        spec: QwenImageSpec = build(self.settings().backbone, "backbone")
        return replace(spec, **{"dtype": self.dtypes[-1], **changes}).load()

    @cached_property
    def plain(self) -> Backbone:
        """The backbone in the default dtype of runs on this device."""
        return self.backbone()

    @cached_property
    def concept(self) -> Any:
        return load_benchmark(Path(self.settings().benchmark.path)).concepts[0]

    def editor(self, name: str, *words: str) -> Editor:
        editor: Editor = build(self.settings(f"editor={name}", *words).editor, "editor")
        return editor

    def trained(self, backbone: Backbone, folder: str) -> Adaptation:
        dreambooth: DreamBooth = build(self.settings().recipe["dreambooth"], "recipe.dreambooth")
        cache = AdapterCache(self.folder / folder)
        return dreambooth.fit(self.concept, backbone, f"sks {self.concept.class_noun}", cache)

    def a1_agreement(self) -> Iterator[Line]:
        """Compare weights, noise, encoding, one velocity and pictures with the CPU."""
        yield same("noise of seed 0", NOISE, digest_of([initial_noise([0], 16, 8, 8)]))
        cpu, here = (self.backbone(dtype="float32", device=device) for device in ("cpu", str(self.device)))
        yield same("digest of the base weights", cpu.digest, here.digest)
        embeds = {name: backbone.encode(PROMPT) for name, backbone in (("cpu", cpu), ("here", here))}
        yield close("encoding, fp32", embeds["cpu"].embeds, embeds["here"].embeds, 1e-4)
        shape = cpu.encode_images([Image.new("RGB", (64, 64))]).mean.shape[1:]
        latents, sigma = initial_noise([1], *shape)[:, 0], torch.tensor([0.5])
        with torch.no_grad():
            velocities = [
                backbone.velocity(latents.to(backbone.device), sigma, embeds[name])
                for name, backbone in (("cpu", cpu), ("here", here))
            ]
        yield close("a velocity, fp32", velocities[0], velocities[1], 1e-3)
        wanted = cpu.sample(embeds["cpu"], SEEDS)
        largest, _ = levels(wanted, here.sample(embeds["here"], SEEDS))
        yield line("pictures in fp32, largest difference", "at most 2 levels", f"{largest} levels", largest <= 2)
        if "bfloat16" in self.dtypes:
            half = self.backbone(dtype="bfloat16")
            _, mean = levels(wanted, half.sample(half.encode(PROMPT), SEEDS))
            yield line("pictures in bf16, mean difference", "below 8 levels", f"{mean:.2f} levels", mean < 8)

    def a2_determinism(self) -> Iterator[Line]:
        """Draw the same pictures again, in another process, one by one, and after an adaptation."""
        embeds = self.plain.encode(PROMPT)
        first = pixels_of(self.plain.sample(embeds, SEEDS))
        yield same("five pictures again", first, pixels_of(self.plain.sample(embeds, SEEDS)))
        other = [sys.executable, "-m", "knowcusbench.gpu.check", "--draw", str(self.folder), "--device"]
        drawn = subprocess.run([*other, str(self.device)], capture_output=True, encoding="utf-8")
        yield same("five pictures in another process", first, drawn.stdout.strip() or drawn.stderr[-200:])
        singly = [image for seed in SEEDS for image in self.plain.sample(embeds, [seed])]
        # On a GPU the kernels depend on the batch size.
        yield same("five pictures one by one", first, pixels_of(singly), required=self.device.type == "cpu")
        with self.plain.adapted(self.trained(self.plain, "a2")):
            adapted = pixels_of(self.plain.sample(self.plain.encode(PROMPT), SEEDS))
        yield line("five pictures with an adapter", f"not {first}", adapted, adapted != first)
        yield same("five pictures after it", first, pixels_of(self.plain.sample(embeds, SEEDS)))

    def a3_adapters(self) -> Iterator[Line]:
        """Check a LoRA, every editor and a merge, with every kind of offload."""
        facts = facts_of(self.concept)[:2]
        adaptations = {"LoRA": self.trained(self.plain, "a3")}
        for name in EDITORS:
            once, again = (self.editor(name).edit(facts, self.plain) for _ in range(2))
            adaptations[name] = once
            yield same(f"{name}: the same edit twice", tensors_of(once), tensors_of(again))
        adaptations["merged ultraedit"] = self.editor("ultraedit", "editor.merge=true").edit(facts, self.plain)
        wanted: dict[str, str] = {}
        for offload in OFFLOADS:
            backbone = self.backbone(offload=offload)
            for name, adaptation in adaptations.items():
                with backbone.adapted(adaptation):
                    found = pixels_of(backbone.sample(backbone.encode(self.concept.knowledge[0].phrase), SEEDS[:2]))
                expected = wanted.setdefault(name, found)
                yield same(f"{name}, offload={offload}: pictures as without", expected, found)

    def a4_training(self) -> Iterator[Line]:
        """Train twenty steps of stage 1 on the CPU, and twice on the device."""
        cpu, here = (self.backbone(dtype="float32", device=device) for device in ("cpu", str(self.device)))
        losses = [
            self.trained(backbone, f"a4-{place}").details["dreambooth_loss"]
            for place, backbone in enumerate((cpu, here, here))
        ]
        apart = abs(losses[1] - losses[0]) / losses[0]
        yield line(
            "loss after 20 steps, against the CPU", "within 5%", f"{losses[0]:.4f}, {losses[1]:.4f}", apart < 0.05
        )
        yield line("loss after 20 steps, twice here", losses[1], losses[2], None)

    def a5_options(self) -> Iterator[Line]:
        """Compare attention backends and the compiler."""
        wanted = self.plain.sample(self.plain.encode(PROMPT), SEEDS[:2])
        for name in ATTENTION if self.device.type == "cuda" else ATTENTION[:1]:
            backbone = self.backbone(attention=name)
            _, mean = levels(wanted, backbone.sample(backbone.encode(PROMPT), SEEDS[:2]))
            yield line(f"attention={name}, mean difference", "below 4 levels", f"{mean:.2f} levels", mean < 4)
        if self.device.type == "cuda":
            from torch._dynamo.utils import counters

            backbone = self.backbone(compile="inductor", attention=None)
            adaptations = [self.trained(self.plain, "a5"), self.trained(self.plain, "a5-again")]
            made = []
            for adaptation in adaptations:
                with backbone.adapted(adaptation):
                    images = backbone.sample(backbone.encode(PROMPT), SEEDS[:2])
                made.append(counters["stats"]["unique_graphs"])
            with self.plain.adapted(adaptations[-1]):
                _, mean = levels(images, self.plain.sample(self.plain.encode(PROMPT), SEEDS[:2]))
            yield line("compile=inductor, mean difference", "below 4 levels", f"{mean:.2f} levels", mean < 4)
            yield line("graphs after a second adapter of that rank", made[0], made[1], made[0] == made[1])

    def a6_metrics(self) -> Iterator[Line]:
        """Compare metrics with the CPU, and fill the device."""
        files = []
        for number, image in enumerate(self.plain.sample(self.plain.encode(PROMPT), SEEDS[:3])):
            image.save(file := self.folder / f"{number}.png")
            files.append(file)
        items = [
            ScoreItem(str(file), file, self.concept.images, "a photo of {}", self.concept.class_noun) for file in files
        ]
        here = self.settings().metrics
        there = self.settings("device=cpu", f"cache_dir={self.folder / 'cpu'}").metrics
        for name in here:
            both: list[Metric] = [build(node[name], f"metrics.{name}") for node in (there, here)]
            if not both[0].tasks or "oracle" in type(both[0]).__module__:
                continue
            wanted, found = ([score.value for score in metric.score(items)] for metric in both)
            apart = max(abs(one - other) / max(1.0, abs(one)) for one, other in zip(wanted, found, strict=True))
            yield line(f"{name}, against the CPU", "within 1e-3", f"{apart:.1e}", apart < 1e-3)
        if self.device.type == "cuda":
            tf32 = torch.backends.cudnn.allow_tf32
            yield line("TF32 in convolutions after fp32 encoders were loaded", "off", "on" if tf32 else "off", not tf32)
            yield from self._full_device()

    def _full_device(self) -> Iterator[Line]:
        """Draw a batch that exceeds the memory: it must be split, and all pictures drawn."""
        embeds, batches = self.plain.encode(PROMPT), BatchSizer()
        filler = torch.empty(
            torch.cuda.mem_get_info(self.device)[0] - 300 * 2**20, dtype=torch.uint8, device=self.device
        )
        try:
            images, sizes = batches.draw(self.plain, embeds, [*range(64)])
            yield line(
                "64 pictures where 300 MiB are free",
                "64, or batches in halves",
                f"{len(images)}: {sizes}",
                len(images) == 64,
            )
        except Exception as error:
            yield line("64 pictures where 300 MiB are free", "a known spelling", error, is_out_of_memory(error))
        del filler

    def a7_command(self) -> Iterator[Line]:
        """Run a whole command on the device: one concept, two prompts, five seeds, twenty steps of training."""
        words = ["bench", "method=mokus", f"device={self.device}", f"run.root={self.folder}", "run.name=a7"]
        words += [f"cache_dir={self.folder}", f"grid.concepts=[{self.concept.name}]", "grid.prompts=2"]
        words += ["grid.seeds=[0,1,2,3,4]", "recipe.dreambooth.steps=20", "recipe.dreambooth.prior_images=0"]
        if self.device.type == "cpu":
            words += ["grid.knowledge_items=1", "grid.seeds=[0]", "editor.rounds=3"]
        done = subprocess.run([sys.executable, "-m", "knowcusbench", *words], capture_output=True, encoding="utf-8")
        yield line(
            "exit code of bench",
            0,
            f"{done.returncode} {done.stderr[-300:] if done.returncode else ''}",
            not done.returncode,
        )
        row = next((text for text in done.stdout.splitlines() if text.startswith("mokus")), "no such row")
        yield line("its leaderboard", "a row of mokus", row, row.startswith("mokus"))

    def steps(self) -> dict[str, tuple[float, Any]]:
        """Return steps by name, each with its approximate seconds on an H100."""
        return {
            "A1": (12, self.a1_agreement),
            "A2": (15, self.a2_determinism),
            "A3": (25, self.a3_adapters),
            "A4": (12, self.a4_training),
            "A5": (35, self.a5_options),
            "A6": (15, self.a6_metrics),
            "A7": (45, self.a7_command),
        }


def close(what: str, wanted: Tensor, found: Tensor, tolerance: float) -> Line:
    """Return a line that expects two tensors to agree, relative to the largest value."""
    apart = float((wanted.cpu().double() - found.cpu().double()).abs().max() / wanted.abs().max())
    return line(
        f"{what}, largest difference", f"at most {tolerance:g} of the largest value", f"{apart:.1e}", apart <= tolerance
    )


def levels(wanted: Sequence[Image.Image], found: Sequence[Image.Image]) -> tuple[int, float]:
    """Return the largest and the mean difference of pictures, in levels of 255."""
    one, other = (np.stack([np.asarray(image, dtype=np.int16) for image in images]) for images in (wanted, found))
    apart: NDArray[np.int16] = np.abs(one - other)
    return int(apart.max()), float(apart.mean())


def pixels_of(images: Sequence[Image.Image]) -> str:
    """Return 16 hex digits of the digest of all pixels."""
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()[:16]


def tensors_of(adaptation: Adaptation) -> str:
    """Return 16 hex digits of the digest of all factors of an edit."""
    adapter = adaptation.text_encoder
    return digest_of([tensor for _, tensor in sorted(adapter.tensors.items())] if adapter else [])


def digest_of(tensors: Sequence[Tensor]) -> str:
    """Return 16 hex digits of the digest of the tensors' bytes."""
    parts = [tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() for tensor in tensors]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = step_options(__doc__, seconds=240.0, example="A1 A3", output="results/check-gpu.jsonl")
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    with exit_on_user_error():
        device = resolve_device(options.device)
        if options.draw:
            plain = Checks(device, options.draw).plain
            print(pixels_of(plain.sample(plain.encode(PROMPT), SEEDS)))
            return
        with tempfile.TemporaryDirectory() as folder:
            steps = Steps.of(options, device)
            steps.describe()
            for name, (needs, work) in Checks(device, Path(folder)).steps().items():
                steps.run(name, needs, work)
    wrong = steps.failures
    asked = [found for found in steps.lines if "ok" in found]
    print(f"{len(asked)} checks on {device}: {len(wrong)} wrong; lines in {options.output}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
