"""How fast the paper's stages run at full size, beside what the hardware could do: `make benchmark-gpu`.

    python -m knowcusbench.backbone.benchmark [--only training edit sampling metrics] [--compile inductor] [--batch 1 5]

Random weights of the published shapes are made on the device; nothing is downloaded. Each time stands beside its floor:
the counted operations over the rate of a large matrix product in their dtype (fp32 for metric encoders, else bf16), or
the bytes that must be read over the bandwidth of a copy, whichever takes longer; both are measured in the same run.
Results are kept in `--output`, by piece and settings: a piece that is there is not timed again. Without a GPU the same
code runs with small shapes on the CPU, in the dtype that it is fast in, which says nothing about full size.
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from knowcusbench.adaptation.dreambooth import Objective, posterior_draws
from knowcusbench.adaptation.editor import Fact
from knowcusbench.adaptation.measure import measured
from knowcusbench.adaptation.ultraedit import UltraEdit
from knowcusbench.backbone.base import LatentDistribution, PromptEmbeds
from knowcusbench.backbone.checkpoint import Checkpoint, open_checkpoint
from knowcusbench.backbone.counts import TRAINING_FORWARDS
from knowcusbench.backbone.footprint import checkpoint_flops, decode_flops, meta_vae, text_encoder_config
from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.backbone.lora import trainable
from knowcusbench.backbone.published import published_checkpoint
from knowcusbench.backbone.qwen_image import QwenImageSpec
from knowcusbench.backbone.qwen_image_model import QwenImage
from knowcusbench.device import fast_dtype, resolve_device
from knowcusbench.errors import exit_on_user_error
from knowcusbench.provenance import hardware
from knowcusbench.rates import copy_bandwidth, matmul_flops, median_seconds, seconds
from knowcusbench.report.markdown import table_line
from knowcusbench.store import write_json
from knowcusbench.toybox.shipped import WEIGHTS

PIECES = ("training", "edit", "sampling", "metrics")

STD = 0.02
"""Of the random weights: with torch's own initialisation activations overflow, and a GPU multiplies NaN faster."""

STAGE_ONE_STEPS = 500

FACTS = tuple(
    Fact(f"What is {thing}?", "sks dog")
    for thing in ("my birthday gift", "the guard of the house", "Anna's best friend", "the one from Rome", "my hero")
)


@dataclass(frozen=True)
class Size:
    """What is built and timed.

    Attributes:
        checkpoint: the shapes.
        image: height and width in pixels.
        steps: denoising steps.
        layers: decoder layers that are edited.
        training_steps: LoRA steps that are timed.
        encoders: the metric encoders: images encoded together, and the model.
    """

    checkpoint: Checkpoint
    image: int
    steps: int
    layers: tuple[int, ...]
    training_steps: int
    encoders: dict[str, tuple[int, Callable[[], nn.Module]]]


@dataclass(frozen=True)
class Timing:
    """One line of the table: seconds of `what`, the floor in seconds and what it counts, and peak memory in bytes."""

    what: str
    seconds: float
    floor: float
    bound: str
    peak_memory_bytes: int
    target: str = ""


@dataclass(frozen=True)
class Rates:
    """Floating-point operations per second in bf16 and fp32, and bytes per second."""

    bf16: float
    fp32: float
    bandwidth: float

    def floor(self, flops: float, read: float, dtype: torch.dtype) -> tuple[float, str]:
        """The longer of both, and which it is."""
        compute, memory = flops / (self.bf16 if dtype == torch.bfloat16 else self.fp32), read / self.bandwidth
        return max((compute, f"{flops / 1e12:.3g} TFLOP"), (memory, f"{read / 1e9:.3g} GB"))


def full_size() -> Size:
    """Qwen-Image as the paper uses it, and the published metric encoders."""
    return Size(
        checkpoint=published_checkpoint(),
        image=1024,
        steps=50,
        layers=tuple(range(18, 26)),
        training_steps=10,
        encoders={
            "CLIP ViT-B/32": (64, lambda: open_clip.create_model("ViT-B-32-quickgelu").visual),
            "PickScore, HPS: CLIP ViT-H/14": (16, lambda: open_clip.create_model("ViT-H-14").visual),
            "DINO ViT-S/16": (64, lambda: vit(hidden_size=384, num_attention_heads=6, intermediate_size=1536)),
            "SAM ViT-H": (1, sam),
        },
    )


def small_size() -> Size:
    """The same kinds of models with shapes for a CPU."""
    return Size(
        checkpoint=open_checkpoint(str(WEIGHTS / "pipeline"), None, weights=False),
        image=64,
        steps=4,
        layers=(3, 4),
        training_steps=3,
        encoders={"ViT of two layers": (4, lambda: vit(num_hidden_layers=2))},
    )


def vit(**changes: int) -> nn.Module:
    model: nn.Module = transformers.ViTModel(transformers.ViTConfig(**changes), add_pooling_layer=False)
    return model


def sam() -> nn.Module:
    config = transformers.SamVisionConfig(
        hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]
    )
    model: nn.Module = transformers.SamVisionModel(config)
    return model


def random_backbone(size: Size, spec: QwenImageSpec, device: torch.device) -> QwenImage:
    """The backbone with random weights, made where it computes."""
    with quiet_libraries(), default_dtype(spec.torch_dtype), device:
        transformer = QwenImageTransformer2DModel.from_config(size.checkpoint.transformer)
        vae = AutoencoderKLQwenImage.from_config(size.checkpoint.vae)
        text_encoder = Qwen2_5_VLForConditionalGeneration(text_encoder_config(size.checkpoint))
    for model in (transformer, vae, text_encoder):
        # transformers takes the dtype that the configuration was saved with.
        randomize(model.to(spec.torch_dtype))
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(WEIGHTS / "pipeline", subfolder="scheduler")
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer")
    return QwenImage(spec, QwenImagePipeline(scheduler, vae, text_encoder, tokenizer, transformer), device)


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Small random matrices; vectors (norms, biases) as they are."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, STD)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def training(backbone: QwenImage, size: Size, rates: Rates) -> Iterator[Timing]:
    """LoRA steps of stage 1 at batch 1, as `DreamBooth` makes them."""
    generator = torch.Generator().manual_seed(0)
    height = width = size.image * 2 // size.checkpoint.pixels_per_token
    shape = (1, int(size.checkpoint.vae["z_dim"]), height, width)
    latents = LatentDistribution(torch.zeros(shape, device=backbone.device), torch.ones(shape, device=backbone.device))
    prompt = backbone.encode("sks dog")
    objective = Objective(posterior_draws(latents, 1, generator), prompt, 1.0)
    with trainable(backbone.transformer, backbone.lora_targets, 4, 4, 0) as parameters:
        optimizer = torch.optim.AdamW(parameters.values(), lr=2e-4)

        def step() -> None:
            objective.loss(backbone, generator).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        with measured("training", backbone.device) as meter:
            took = median_seconds(step, backbone.device, size.training_steps)
    forward = forward_flops(size, prompt)
    passes = TRAINING_FORWARDS if backbone.spec.gradient_checkpointing else TRAINING_FORWARDS - 1
    weights = weight_bytes(backbone.transformer)
    floor, bound = rates.floor(passes * forward, passes * weights, backbone.spec.torch_dtype)
    peak = meter.cost.peak_memory_bytes
    yield Timing("stage 1: LoRA step, batch 1", took, floor, bound, peak)
    yield Timing(
        f"stage 1: {STAGE_ONE_STEPS} steps (from one)", STAGE_ONE_STEPS * took, STAGE_ONE_STEPS * floor, bound, peak
    )


def edit(backbone: QwenImage, size: Size, rates: Rates) -> Iterator[Timing]:
    """Stage 2: one edit of five facts, from its questions to its factors, the check of the base weights included."""
    editor = UltraEdit(eta=1e-6, layers=size.layers)
    backbone.encode("warm up")
    editor.edit(FACTS[:1], backbone)
    with measured("edit", backbone.device) as meter:
        took = seconds(lambda: editor.edit(FACTS, backbone), backbone.device)
    names = backbone.text_modules(editor.modules, editor.layers)
    with FlopCounterMode(display=False) as counter:
        editor.capture(backbone, names, FACTS)
    # Every fact reads the language model forwards, and the layers above the first edited one backwards again.
    layers = [weight_bytes(layer) for layer in language_layers(backbone)]
    head = weight_bytes(backbone.text_encoder.get_output_embeddings())  # type: ignore[operator]
    passes = len(FACTS) * (sum(layers) + head + sum(layers[min(size.layers) + 1 :]) + head)
    everything = sum(weight_bytes(module) for module in backbone.modules().values())
    floor, bound = rates.floor(counter.get_total_flops(), passes + everything, backbone.spec.torch_dtype)
    yield Timing(f"stage 2: edit of {len(FACTS)} items", took, floor, bound, meter.cost.peak_memory_bytes, "3 s")


def language_layers(backbone: QwenImage) -> list[nn.Module]:
    paths = (name.rpartition(".mlp.")[0] for name in backbone.text_modules(["up_proj"], range(backbone.layer_count)))
    return [backbone.text_encoder.get_submodule(path) for path in paths]


def weight_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def sampling(backbone: QwenImage, size: Size, rates: Rates) -> Iterator[Timing]:
    """A batch of images of one prompt: every step with guidance, and decoding."""
    embeds, count = backbone.encode("a photo of sks dog on the beach"), backbone.spec.seeds_per_batch
    started = seconds(lambda: backbone.sample(embeds, range(count)), backbone.device)
    with measured("sampling", backbone.device) as meter:
        took = seconds(lambda: backbone.sample(embeds, range(count)), backbone.device)
    conditions = [embeds]
    if backbone.spec.true_cfg_scale > 1:
        conditions.append(backbone.encode(backbone.spec.negative_prompt))
    steps = backbone.spec.steps
    decoding = decode_flops(meta_vae(size.checkpoint), height=size.image, width=size.image)
    flops = count * (steps * sum(forward_flops(size, condition) for condition in conditions) + decoding)
    read = steps * len(conditions) * weight_bytes(backbone.transformer)
    floor, bound = rates.floor(flops, read, backbone.spec.torch_dtype)
    what = f"sampling: {size.image} x {size.image}, {backbone.spec.steps} steps, guidance, {count} at once, an image"
    what += f" (the first batch took {started:.1f} s)"
    yield Timing(what, took / count, floor / count, bound, meter.cost.peak_memory_bytes, "1.3 x floor")


def forward_flops(size: Size, prompt: PromptEmbeds) -> float:
    """Of the transformer at batch 1, for a prompt of this length: a longer one would flatter."""
    pixels = {"height": size.image, "width": size.image}
    return checkpoint_flops(size.checkpoint, meta_vae(size.checkpoint), **pixels, tokens=prompt.embeds.shape[1])


def metrics(size: Size, rates: Rates, device: torch.device) -> Iterator[Timing]:
    """The image towers of the metrics' encoders in fp32, as the protocols have them, on preprocessed pixels."""
    for name, (batch, build) in size.encoders.items():
        with quiet_libraries():
            model = build().eval().requires_grad_(False).to(device)
        pixels = torch.randn(batch, 3, *image_size(model), device=device)

        def encode(model: nn.Module = model, pixels: Tensor = pixels) -> None:
            with torch.inference_mode():
                model(pixels)

        with FlopCounterMode(display=False) as counter:
            encode()
        with measured("metrics", device) as meter:
            took = median_seconds(encode, device, repeats=5)
        floor, bound = rates.floor(counter.get_total_flops(), weight_bytes(model), torch.float32)
        peak = meter.cost.peak_memory_bytes
        yield Timing(f"metrics: {name}, fp32, {batch} at once, an image", took / batch, floor / batch, bound, peak)


def image_size(model: Any) -> tuple[int, int]:
    size = model.image_size if hasattr(model, "image_size") else model.config.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Time the pieces that `options.output` does not have yet, and return all that it has then."""
    device = resolve_device(options.device)
    size = full_size() if device.type == "cuda" else small_size()
    spec = QwenImageSpec(
        source=size.checkpoint.source,
        dtype="bfloat16" if device.type == "cuda" else fast_dtype(device),
        device=str(device),
        height=size.image,
        width=size.image,
        steps=options.steps or size.steps,
        attention=options.attention,
        compile=options.compile,
        offload=options.offload,
    )
    settings = {key: getattr(spec, key) for key in ("dtype", "steps", "attention", "compile", "offload")}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else hardware()["processor"]
    machine = {"device": name, "full_size": device.type == "cuda", "settings": settings, "torch": torch.__version__}
    result = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    if result.get("machine") != machine:
        result = {"machine": machine, "pieces": {}}
    rates = Rates(matmul_flops(device, torch.bfloat16), matmul_flops(device, torch.float32), copy_bandwidth(device))
    result["rates"] = asdict(rates)
    todo = {
        **{piece: piece for piece in options.only if piece != "sampling"},
        **({f"sampling {batch}": "sampling" for batch in options.batch} if "sampling" in options.only else {}),
    }
    backbone: QwenImage | None = None
    for key, piece in todo.items():
        if key in result["pieces"]:
            continue
        if piece == "metrics":
            timings = list(metrics(size, rates, device))
        else:
            if backbone is None:
                backbone = random_backbone(size, spec, device)
            if piece == "sampling":
                backbone.spec = replace(spec, seeds_per_batch=int(key.split()[1]))
            work = {"training": training, "edit": edit, "sampling": sampling}[piece]
            timings = list(work(backbone, size, rates))
        result["pieces"][key] = [asdict(timing) for timing in timings]
        write_json(options.output, result)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return result


def markdown(result: dict[str, Any]) -> str:
    """The table of a result."""
    machine, rates = result["machine"], result["rates"]
    chosen = {key: value for key, value in machine["settings"].items() if value not in (None, "none")}
    lines = [
        f"{machine['device']}, torch {machine['torch']}; bf16 {rates['bf16'] / 1e12:.3g} TFLOP/s, "
        f"fp32 {rates['fp32'] / 1e12:.3g} TFLOP/s, {rates['bandwidth'] / 1e9:.4g} GB/s; "
        + ", ".join(f"{key}={value}" for key, value in chosen.items()),
        "",
        table_line(["what", "seconds", "floor", "of the floor", "counted", "peak memory", "target"]),
        table_line(["---", "---:", "---:", "---:", "---", "---:", "---"]),
    ]
    if not machine["full_size"]:
        lines.insert(0, "Small shapes on a CPU: that every piece runs, and nothing about full size.")
    for timing in (timing for timings in result["pieces"].values() for timing in timings):
        lines.append(
            table_line(
                [
                    timing["what"],
                    f"{timing['seconds']:.4g}",
                    f"{timing['floor']:.4g}",
                    f"{timing['floor'] / timing['seconds']:.1%}",
                    timing["bound"],
                    f"{timing['peak_memory_bytes'] / 2**30:.1f} GiB",
                    timing["target"],
                ]
            )
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PIECES, default=list(PIECES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 5], help="images drawn at once")
    parser.add_argument("--steps", type=int, help="denoising steps instead of the paper's")
    parser.add_argument("--attention")
    parser.add_argument("--compile")
    parser.add_argument("--offload", choices=("none", "text_encoder", "alternating"), default="none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("results/benchmark-gpu.json"))
    with exit_on_user_error():
        result = benchmark(parser.parse_args(arguments))
    print(markdown(result))
    print(f"written to {parser.parse_args(arguments).output}", file=sys.stderr)


if __name__ == "__main__":
    main()
