"""Speed of the paper's stages at full size, against the limits of the hardware: `make benchmark-gpu`.

    python -m knowcusbench.gpu.benchmark [--seconds 480] [--only B3 B5] [--output FILE.jsonl] [--table FILE.jsonl]

Random weights of the published shapes are made on the device; nothing is downloaded. Each time is a median with its
spread, and has a floor: the counted operations over the rate of a large bf16 matrix product (metric encoders: of their
dtype), or the bytes that must be read over the bandwidth of a copy, whichever takes longer. Both rates are measured in
the same run. A peak of memory is compared with the estimate of `doctor`. Lines are written as they come: a full GPU or
an expired time slot loses nothing. `--table` makes the table of existing lines. Without a GPU the same code runs small
shapes on the CPU, which says nothing about full size.
"""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from knowcusbench.adaptation.dreambooth import Objective, posterior_draws
from knowcusbench.adapters.lora import attached, extract, trainable
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.base import LatentDistribution, PromptEmbeds
from knowcusbench.backbone.counting import decode_flops, meta_model
from knowcusbench.backbone.counts import TRAINING_FORWARDS
from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.errors import exit_on_user_error
from knowcusbench.gpu.models import Size, full_size, image_size, random_backbone, small_size
from knowcusbench.gpu.steps import Line, Steps, step_options
from knowcusbench.gpu.table import markdown, read_lines
from knowcusbench.gpu.timing import Timer, edit_bytes, forward_flops, weight_bytes
from knowcusbench.machine.device import fast_dtype, resolve_device
from knowcusbench.machine.out_of_memory import free_memory

RANK = 4
"""Rank of the LoRA, as in the release's command."""

STAGE_ONE_STEPS = 500
SPREAD = 0.03
"""Largest expected share of a batch's time beyond its forwards."""

PROMPT = "a photo of sks dog on the beach"
FACTS = tuple(
    Fact(f"What is {thing}?", "sks dog")
    for thing in ("my birthday gift", "the guard of the house", "Anna's best friend", "the one from Rome", "my hero")
)


class Benchmark:
    """The timed steps, on a random backbone of `size` with the settings of `spec`."""

    def __init__(self, size: Size, spec: QwenImageSpec, device: torch.device) -> None:
        self.size, self.spec, self.device = size, spec, device
        self.on_gpu = device.type == "cuda"
        self.timer = Timer(device, spec.torch_dtype)
        self.timed = self.timer.timed
        self.latent_shape = spec.family.latent_shape(size.checkpoint.vae, size.image, size.image)

    @cached_property
    def backbone(self) -> DiffusersBackbone:
        return random_backbone(self.size, self.spec, self.device)

    def _decode_flops(self) -> float:
        """Return the operations of decoding an image."""
        checkpoint, edge = self.size.checkpoint, self.size.image
        return decode_flops(checkpoint, meta_model(checkpoint, "vae"), height=edge, width=edge)

    @cached_property
    def prompt(self) -> PromptEmbeds:
        return self.backbone.encode(PROMPT)

    @cached_property
    def lora(self) -> Adapter:
        """A LoRA on all layers that stage 1 adapts; both factors are random."""
        with trainable(self.backbone.transformer, self.backbone.lora_targets, RANK, RANK, 0) as parameters:
            with torch.no_grad():
                for parameter in parameters.values():
                    parameter.normal_(0, 1e-3)
            return extract(self.backbone.transformer)

    def b1_backbone(self) -> Iterator[Line]:
        """Make random weights, compare their bytes with the footprint, and time the digest and a prompt."""
        yield self.timed("random weights made", lambda: self.backbone, repeats=1, warm=0)
        found = {name: weight_bytes(module) for name, module in self.backbone.modules().items()}
        for name, count in self.spec.footprint().weight_bytes.items():
            yield {"what": f"bytes of {name}", "expected": count, "found": found[name], "ok": count == found[name]}
        everything = sum(found.values())
        yield self.timed("digest of the weights", self.backbone.check_intact, read=everything, repeats=3, warm=1)
        read = weight_bytes(self.backbone.text_encoder)
        yield self.timed("encode a prompt", lambda: self.backbone.encode(PROMPT), read=read, repeats=20, warm=2)

    def b2_rates(self) -> Iterator[Line]:
        """Measure the floor's rates, and attention alone."""
        rates = self.timer.rates
        yield {"what": "rates", "bf16": rates.bf16, "fp32": rates.fp32, "bytes_per_second": rates.bandwidth}
        config: Any = self.backbone.transformer.config
        tokens = (self.size.image // self.size.checkpoint.pixels_per_token) ** 2 + self.prompt.embeds.shape[1]
        heads, width = config.num_attention_heads, config.attention_head_dim
        query, key, value = torch.randn(3, 1, heads, tokens, width, device=self.device).to(self.spec.torch_dtype)
        kinds = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
        for kind in kinds if self.on_gpu else [SDPBackend.MATH]:

            def attend(kind: SDPBackend = kind) -> Tensor:
                with sdpa_kernel(kind):
                    return torch.nn.functional.scaled_dot_product_attention(query, key, value)

            flops = 4 * heads * tokens**2 * width
            yield self.timed(f"attention of {tokens} tokens, {kind.name.lower()}", attend, flops=flops, repeats=10)

    def b3_forwards(self) -> Iterator[Line]:
        """Time a forward of the transformer, plain and with a LoRA, with one image and five."""
        backends = ["_native_cudnn", "_native_flash", "_native_efficient"] if self.on_gpu else []
        for what, adapter in (("plain", None), (f"LoRA of rank {RANK}", self.lora)):
            for count in (1, 5):
                with self._with(adapter):
                    yield self._forward(f"forward, {what}, {count} at once, an image", count)
        for name in backends:
            with self._attention(name), self._with(self.lora):
                yield self._forward(f"forward, LoRA, attention={name}, 1 at once, an image", 1)
        if self.on_gpu:
            yield from self._kernels()

    def _with(self, adapter: Adapter | None) -> AbstractContextManager[None]:
        if adapter is None:
            return nullcontext()
        return attached(self.backbone.transformer, adapter, self.spec.torch_dtype)

    def _attention(self, name: str) -> AbstractContextManager[None]:
        from diffusers.models.attention_dispatch import attention_backend

        manager: AbstractContextManager[None] = attention_backend(name)
        return manager

    def _forward(self, what: str, count: int) -> Line:
        latents = torch.randn(count, *self.latent_shape, device=self.device)
        sigma = torch.full((count,), 0.5)

        def forward() -> None:
            with torch.no_grad():
                self.backbone.velocity(latents, sigma, self.prompt)

        read = weight_bytes(self.backbone.transformer)
        return self.timed(what, forward, flops=count * forward_flops(self.size, self.prompt), read=read, each=count)

    def _kernels(self) -> Iterator[Line]:
        """List the 25 kernels with the most time in one forward."""
        with (
            torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile,
            self._with(self.lora),
        ):
            self._forward("profiled", 1)
        events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)[:25]
        for event in events:
            yield {"what": f"kernel {event.key[:100]}", "calls": event.count, "share_us": event.self_device_time_total}

    def b4_decoding(self) -> Iterator[Line]:
        """Time the VAE: one image, five at once, five one after another, tiles."""
        vae = self.backbone._pipeline.vae
        flops = self._decode_flops()
        vae.disable_slicing()
        vae.disable_tiling()
        for what, count, prepare in (
            ("1 image", 1, lambda: None),
            ("5 at once", 5, lambda: None),
            ("5 one after another", 5, vae.enable_slicing),
            ("5 in tiles of 256", 5, lambda: vae.enable_tiling(256, 256, 192, 192)),
        ):
            prepare()
            channels, *edges = self.latent_shape
            latents = torch.randn(count, channels, 1, *edges, device=self.device).to(self.spec.torch_dtype)

            def decode(latents: Tensor = latents) -> None:
                with torch.no_grad():
                    vae.decode(latents)

            yield self.timed(f"decode, {what}, an image", decode, flops=count * flops, repeats=3, warm=1, each=count)
            free_memory()
        vae.disable_tiling()
        if not self.spec.vae_slicing:
            vae.disable_slicing()

    def b5_batch(self) -> Iterator[Line]:
        """Time one real batch and its phases, and compare it with forwards times their time."""
        count = self.spec.seeds_per_batch
        with self._with(self.lora):
            one = self._forward(f"forward, LoRA, {count} at once, an image", count)
        yield one
        guided = 2 if self.spec.true_cfg_scale > 1 else 1
        decoding = self._decode_flops()
        conditions = [self.prompt, self.backbone.encode(self.spec.negative_prompt)][:guided]
        flops = self.spec.steps * sum(forward_flops(self.size, each) for each in conditions) + decoding
        read = self.spec.steps * guided * weight_bytes(self.backbone.transformer)
        images: list[Any] = []
        with self.backbone.adapted(Adaptation(transformer=self.lora)):
            batch = self.timed(
                f"a batch: {self.size.image} x {self.size.image}, {self.spec.steps} steps, guidance, LoRA, {count} at "
                "once, an image",
                lambda: images.extend(self.backbone.sample(self.prompt, range(count))),
                flops=count * flops,
                read=read,
                repeats=1,
                warm=0 if self.on_gpu else 1,
                each=count,
                estimate=self.spec.memory(RANK).drawing,
            )
        yield batch
        rest = batch["seconds"] - self.spec.steps * guided * one["seconds"]
        share = rest / batch["seconds"]
        yield {
            "what": "a batch minus its forwards: decoding, PIL, launches",
            "expected": f"below {SPREAD:.0%} and decoding",
            "found": f"{share:.1%}, {rest:.2f} s an image",
            "ok": None,
        }
        yield self.timed("PNG of an image", lambda: images[0].save(io.BytesIO(), "PNG", compress_level=6), repeats=3)

    def b6_training(self) -> Iterator[Line]:
        """Time LoRA steps of stage 1 at batch 1, with and without gradient checkpointing."""
        transformer: Any = self.backbone.transformer
        forward = forward_flops(self.size, self.backbone.encode("sks dog"))
        for checkpointing in (True, False):
            self._checkpoint(checkpointing)
            passes = TRAINING_FORWARDS - (not checkpointing)
            estimate = replace(self.spec, gradient_checkpointing=checkpointing).memory(RANK).training
            with self._trainer() as step:
                took = self.timed(
                    f"LoRA step, batch 1, checkpointing {'on' if checkpointing else 'off'}",
                    step,
                    flops=passes * forward,
                    read=passes * weight_bytes(transformer),
                    repeats=self.size.training_steps,
                    warm=2,
                    estimate=estimate,
                )
            yield took
            yield {
                "what": f"stage 1, {STAGE_ONE_STEPS} steps (from one)",
                "seconds": STAGE_ONE_STEPS * took["seconds"],
                "floor": STAGE_ONE_STEPS * took["floor"],
                "bound": took["bound"],
            }
        self._checkpoint(self.spec.gradient_checkpointing)

    def _checkpoint(self, enabled: bool) -> None:
        transformer: Any = self.backbone.transformer
        (transformer.enable_gradient_checkpointing if enabled else transformer.disable_gradient_checkpointing)()

    @contextmanager
    def _trainer(self) -> Iterator[Callable[[], None]]:
        generator = torch.Generator().manual_seed(0)
        shape = (1, *self.latent_shape)
        latents = LatentDistribution(*(torch.full(shape, value, device=self.device) for value in (0.0, 1.0)))
        draws = posterior_draws(latents, 1, generator)
        objective = Objective(draws, self.backbone.encode("sks dog"), 1.0)
        with trainable(self.backbone.transformer, self.backbone.lora_targets, RANK, RANK, 0) as parameters:
            optimizer = torch.optim.AdamW(parameters.values(), lr=2e-4)

            def step() -> None:
                objective.loss(self.backbone, generator).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

            yield step

    def b7_edit(self) -> Iterator[Line]:
        """Time stage 2 for five items, and attaching and removing an adapter."""
        editor = UltraEdit(eta=1e-6, layers=self.size.layers)
        names = self.backbone.text_modules(editor.modules, editor.layers)
        with FlopCounterMode(display=False) as counter:
            editor.capture(self.backbone, names, FACTS)
        read = edit_bytes(self.backbone, len(FACTS), min(self.size.layers))
        edit = self.timed(
            f"stage 2: edit of {len(FACTS)} items, the check of the base weights included",
            lambda: editor.edit(FACTS, self.backbone),
            flops=counter.get_total_flops(),
            read=read,
            repeats=3,
            warm=1,
        )
        yield edit

        def attach_and_remove() -> None:
            with self._with(self.lora):
                pass

        yield self.timed(f"attach and remove a LoRA on {len(self.backbone.lora_targets)} layers", attach_and_remove)

    def b8_metrics(self) -> Iterator[Line]:
        """Time the image towers of the metrics' encoders in fp32, the protocols' dtype, with the backbone in memory."""
        for name, (batch, build) in self.size.encoders.items():
            with quiet_libraries(), self.device:
                model = build().eval().requires_grad_(False)
            pixels = torch.randn(batch, 3, *image_size(model), device=self.device)

            def encode(model: nn.Module = model, pixels: Tensor = pixels) -> None:
                with torch.inference_mode():
                    model(pixels)

            with FlopCounterMode(display=False) as counter:
                encode()
            what = f"metrics: {name}, fp32, {batch} at once, an image"
            flops, read = counter.get_total_flops(), weight_bytes(model)
            yield self.timed(what, encode, flops=flops, read=read, dtype=torch.float32, warm=1, each=batch)
            del model
            free_memory()

    def b9_offload(self) -> Iterator[Line]:
        """Time moving modules to main memory and back."""
        for name in ("text_encoder", "transformer"):
            module = self.backbone.modules()[name]

            def there_and_back(module: nn.Module = module) -> None:
                module.to("cpu")
                module.to(self.device)

            read = 2 * weight_bytes(module)
            yield self.timed(f"{name} to main memory and back", there_and_back, read=read, repeats=1, warm=0)

    def b10_compiled(self) -> Iterator[Line]:
        """Time the compiled transformer: the first forward, later ones, and a second adapter."""
        from torch._dynamo.utils import counters

        transformer: Any = self.backbone.transformer
        transformer.compile_repeated_blocks(backend="inductor", dynamic=True)
        with self._with(self.lora):
            yield self.timed("first forward, compiled", lambda: self._forward("", 1), repeats=1, warm=0)
            for count in (1, 5):
                yield self._forward(f"forward, LoRA, compiled, {count} at once, an image", count)
        graphs = counters["stats"]["unique_graphs"]
        with self._with(self.lora):
            self._forward("", 1)
        again = counters["stats"]["unique_graphs"]
        yield {"what": "graphs after a second adapter", "expected": graphs, "found": again, "ok": graphs == again}

    def steps(self) -> dict[str, tuple[float, Callable[[], Iterator[Line]]]]:
        """Return steps by name, each with its approximate seconds on an H100. The least important are last."""
        steps: dict[str, tuple[float, Callable[[], Iterator[Line]]]] = {
            "B1": (25, self.b1_backbone),
            "B2": (8, self.b2_rates),
            "B3": (45, self.b3_forwards),
            "B4": (8, self.b4_decoding),
            "B5": (100, self.b5_batch),
            "B6": (20, self.b6_training),
            "B7": (12, self.b7_edit),
            "B8": (30, self.b8_metrics),
            "B9": (25, self.b9_offload),
        }
        # On the CPU the compiler takes longer than all other steps, and shows nothing.
        return steps | ({"B10": (70, self.b10_compiled)} if self.on_gpu else {})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = step_options(__doc__, seconds=480.0, example="B3 B5", output="results/benchmark-gpu.jsonl")
    parser.add_argument("--steps", type=int, help="denoising steps instead of the paper's")
    parser.add_argument("--attention")
    parser.add_argument("--table", type=Path, help="print the table of these lines, and time nothing")
    options = parser.parse_args(arguments)
    with exit_on_user_error():
        if options.table:
            print(markdown(read_lines(options.table)))
            return
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
        )
        steps = Steps.of(options, device)
        steps.describe(dtype=spec.dtype)
        for name, (needs, work) in Benchmark(size, spec, device).steps().items():
            steps.run(name, needs, work)
    print(markdown(steps.lines))
    print(f"lines in {options.output}", file=sys.stderr)
    sys.exit(1 if steps.failures else 0)


if __name__ == "__main__":
    main()
