"""Options of speed and memory: what each does to the pixels decides whether it is part of a run's fingerprint."""

import importlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import miniature_spec
from torch._dynamo.utils import counters

from knowcusbench.adapters.lora import trainable
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.backbone.step_lora import StepLora
from knowcusbench.benchmark.types import Benchmark
from knowcusbench.errors import ConfigError
from knowcusbench.run.identity import identity_of
from knowcusbench.storage.versions import decisive_fields

PROMPT = "a red robot on the beach"

DECISIVE = {field.name for field in decisive_fields(QwenImageSpec)}


def draw(backbone: DiffusersBackbone, prompt: str = PROMPT, seeds: tuple[int, ...] = (1, 2)) -> np.ndarray:
    return np.stack([np.asarray(image) for image in backbone.sample(backbone.encode(prompt), seeds)]).astype(int)


def a_lora(backbone: DiffusersBackbone, seed: int, rank: int = 2) -> Adaptation:
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name in backbone.lora_targets:
        layer = backbone.transformer.get_submodule(name)
        down = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
        factors[name] = (down, 4 * torch.randn(layer.out_features, rank, generator=generator))
    return Adaptation(transformer=Adapter.from_factors(factors))


@pytest.fixture(scope="module")
def plain(backbone: DiffusersBackbone) -> np.ndarray:
    return draw(backbone)


@pytest.fixture
def compiled(miniature: Path) -> DiffusersBackbone:
    """Through torch.compile's tracer, its code run operation by operation: what is compiled when, without a compiler's
    time."""
    torch._dynamo.reset()
    counters.clear()
    return miniature_spec(miniature, compile="eager").load()


@pytest.mark.parametrize(
    ("options", "indifferent"),
    [(QwenImageSpec, {"device", "offload", "gradient_checkpointing"}), (StepLora, set())],
)
def test_every_option_is_part_of_what_a_run_is_but_those_that_change_no_pixel(options, indifferent) -> None:
    """Also one that is added later: it is either compared, or must be named here."""
    names = [field.name for field in fields(options)]

    def identity(**changes: str) -> object:
        node = {"_target_": f"{options.__module__}.{options.__name__}", **dict.fromkeys(names), **changes}
        backbone = node if options is QwenImageSpec else {"step_lora": node}
        resolved = {"grid": {}, "metrics": {}, "cache_dir": "/cache", "backbone": backbone}
        return identity_of(Benchmark(Path(), (), "digest"), resolved)

    assert {name for name in names if identity(**{name: "another"}) == identity()} == indifferent


def test_torch_choosing_the_attention_itself_is_the_default(miniature: Path, plain: np.ndarray) -> None:
    assert np.array_equal(draw(miniature_spec(miniature, attention="native").load()), plain)


def test_an_attention_backend_changes_pixels_and_stays_with_its_backbone(miniature: Path, plain: np.ndarray) -> None:
    """In bf16: in fp32 the last bits of so few steps do not reach the pixels."""
    changed, default = (
        draw(miniature_spec(miniature, attention=backend, dtype="bfloat16", height=32, width=32).load())
        for backend in ("_native_math", None)
    )
    assert 0 < abs(changed - default).max() < 64
    assert "attention" in DECISIVE
    assert np.array_equal(draw(miniature_spec(miniature).load()), plain)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attention": "flash_hubb"}, r"backbone.attention: unknown backend 'flash_hubb'; did you mean 'flash_hub'"),
        ({"attention": "xformers"}, r"backbone.attention: xformers can't be used .*install"),
        ({"compile": "inductr"}, r"backbone.compile: unknown backend 'inductr'; did you mean 'inductor'"),
        ({"vae_tile": 100}, r"backbone.vae_tile: expected a multiple of 32 pixels, found 100"),
    ],
)
def test_an_option_that_cannot_be_had_is_one_line(miniature: Path, changes: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        miniature_spec(miniature, **changes).load()
    assert "\n" not in str(caught.value)


def test_tiles_change_pixels_and_latents_of_images_that_are_larger(miniature: Path) -> None:
    whole, tiled, large = (
        miniature_spec(miniature, height=96, width=96, vae_tile=tile).load() for tile in (None, 32, 96)
    )
    assert abs(draw(tiled) - draw(whole)).max() > 0
    assert np.array_equal(draw(large), draw(whole))
    assert "vae_tile" in DECISIVE
    (image,) = whole.sample(whole.encode(PROMPT), [1])
    assert not torch.equal(tiled.encode_images([image]).mean, whole.encode_images([image]).mean)
    assert tiled.settings == {"vae_tile": 32}
    assert whole.settings == {}


def test_an_adapter_of_the_same_rank_shares_the_compiled_blocks(
    compiled: DiffusersBackbone, backbone: DiffusersBackbone
) -> None:
    drawn, known = [], 0
    for seed in range(3):
        adaptation = a_lora(compiled, seed)
        with compiled.adapted(adaptation), backbone.adapted(adaptation):
            drawn.append(draw(compiled))
            assert np.array_equal(drawn[-1], draw(backbone))
        graphs = counters["stats"]["unique_graphs"]
        assert seed == 0 or graphs == known
        known = graphs
    assert known >= 1
    assert not np.array_equal(drawn[0], drawn[1])
    compiled.check_intact()


def test_prompts_and_batches_of_any_size_share_the_compiled_blocks(
    compiled: DiffusersBackbone, backbone: DiffusersBackbone
) -> None:
    draw(compiled)
    known = counters["stats"]["unique_graphs"]
    for prompt, seeds in (("a robot", (1, 2)), ("a much longer prompt about a house", (3, 4, 5)), (PROMPT, (7,))):
        assert np.array_equal(draw(compiled, prompt, seeds), draw(backbone, prompt, seeds))
    assert counters["stats"]["unique_graphs"] == known


@pytest.mark.parametrize("gradient_checkpointing", [True])
def test_a_compiled_transformer_trains_as_the_plain_one(
    miniature: Path, backbone: DiffusersBackbone, gradient_checkpointing: bool
) -> None:
    torch._dynamo.reset()
    compiled = miniature_spec(miniature, compile="eager", gradient_checkpointing=gradient_checkpointing).load()
    latents = torch.randn(1, backbone._pipeline.vae.config.z_dim, 8, 8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for one in (backbone, compiled):
        with trainable(one.transformer, one.lora_targets, 2, 2, 0) as parameters:
            one.velocity(latents, torch.tensor([0.3]), one.encode(PROMPT)).square().mean().backward()
            gradients.append(parameters["transformer_blocks.0.attn.to_q.lora_B"].grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.05, atol=float(gradients[0].abs().max()) / 20)


def test_compiled_code_changes_pixels(miniature: Path) -> None:
    """Fused kernels round less often than bf16 operations one by one."""
    torch._dynamo.reset()
    small = {"dtype": "bfloat16", "height": 32, "width": 32, "steps": 2, "true_cfg_scale": 1.0}
    compiled = miniature_spec(miniature, compile="inductor", **small).load()
    assert 0 < abs(draw(compiled) - draw(miniature_spec(miniature, **small).load())).max() < 64
    assert "compile" in DECISIVE


@pytest.mark.parametrize(
    ("offload", "moves"),
    [
        ("none", {"encode": [], "sample": [], "velocity": [], "logits": []}),
        ("text_encoder", {"encode": [], "sample": ["text_encoder"], "velocity": ["text_encoder"], "logits": []}),
        (
            "alternating",
            {
                "encode": ["transformer"],
                "sample": ["text_encoder"],
                "velocity": ["text_encoder"],
                "logits": ["transformer"],
            },
        ),
    ],
)
def test_what_is_not_at_work_waits_in_main_memory(
    miniature: Path, plain: np.ndarray, offload: str, moves: dict[str, list[str]]
) -> None:
    """Which of the two is sent to the CPU, and that the other one is on the device, before each kind of work."""
    backbone = miniature_spec(miniature, offload=offload).load()
    embeds = backbone.encode(PROMPT)
    backbone._negative = backbone.encode(" ")
    both = {backbone.text_encoder, backbone.transformer}
    sent: list[tuple[str, object]] = []
    for name in ("text_encoder", "transformer"):
        getattr(backbone, name).to = lambda device, name=name: sent.append((name, device))
    latents = torch.zeros(1, backbone._pipeline.vae.config.z_dim, 8, 8)
    works = {
        "encode": ("text_encoder", lambda: backbone.encode(PROMPT)),
        "sample": ("transformer", lambda: backbone.sample(embeds, [1])),
        "velocity": ("transformer", lambda: backbone.velocity(latents, torch.tensor([0.5]), embeds)),
        "logits": ("text_encoder", lambda: backbone.language_logits(torch.tensor([[1, 2]]))),
    }
    for name, (at_work, work) in works.items():
        backbone._on_device = both - {getattr(backbone, at_work)}
        sent.clear()
        work()
        assert [module for module, device in sent if device == "cpu"] == moves[name]
        assert sent[-1] == (at_work, backbone.device)
        sent.clear()
        work()
        assert sent == [], "what is there already is not moved again"
    for name in ("text_encoder", "transformer"):
        del getattr(backbone, name).to
    assert np.array_equal(draw(backbone), plain)
    assert "offload" not in DECISIVE


def test_a_quantisation_without_its_package_names_the_command(miniature: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"torchao_int8 needs torchao: pip install torchao$"):
        miniature_spec(miniature, quantization="torchao_int8").load()
    with pytest.raises(ConfigError, match=r"bitsandbytes_nf4 needs bitsandbytes: pip install bitsandbytes$"):
        miniature_spec(miniature, quantization="bitsandbytes_nf4").load()


@pytest.mark.parametrize("name", ["torchao_int8", "torchao_float8"])
def test_a_quantised_transformer_draws_nearly_alike_and_takes_adapters(
    miniature: Path, plain: np.ndarray, backbone: DiffusersBackbone, name: str
) -> None:
    pytest.importorskip("torchao")
    quantized = miniature_spec(miniature, quantization=name).load()
    weight = quantized.transformer.get_submodule(quantized.lora_targets[0]).weight
    assert weight.qdata.element_size() == 1
    assert 0 < abs(draw(quantized) - plain).mean() < 8
    assert quantized.digest != backbone.digest
    adaptation = a_lora(quantized, 0)
    with quantized.adapted(adaptation), backbone.adapted(adaptation):
        adapted, expected = draw(quantized), draw(backbone)
    assert abs(adapted - expected).mean() < abs(adapted - plain).mean() / 2
    with trainable(quantized.transformer, quantized.lora_targets, 2, 2, 0) as parameters:
        latents = torch.randn(1, quantized._pipeline.vae.config.z_dim, 8, 8)
        quantized.velocity(latents, torch.tensor([0.3]), quantized.encode(PROMPT)).square().mean().backward()
        assert parameters["transformer_blocks.0.attn.to_q.lora_B"].grad.abs().max() > 0
    quantized.check_intact()
    with pytest.raises(RuntimeError, match="base weights"), quantized.adapted(Adaptation()):
        weight.scale[0] *= 2


def test_quantised_weights_are_counted_at_their_size(miniature: Path) -> None:
    spec = miniature_spec(miniature, quantization="bitsandbytes_nf4")
    footprint = spec.footprint()
    assert footprint.weight_bytes["transformer"] == round(footprint.parameters["transformer"] * (4 + 32 / 64) / 8)
    assert footprint.weight_bytes["text_encoder"] == spec.torch_dtype.itemsize * footprint.parameters["text_encoder"]
