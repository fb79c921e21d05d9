import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from PIL import Image

from knowcusbench.adaptation.types import Adaptation, Adapter
from knowcusbench.backbone.qwen_image import QwenImageSpec
from knowcusbench.errors import ConfigError, MethodError, UserError, WeightsError

PROMPT = "a red toy on the beach"


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def a_lora(backbone, scale: float = 0.5) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name in backbone.lora_targets:
        layer = backbone.transformer.get_submodule(name)
        down = torch.randn(2, layer.in_features, generator=generator) / layer.in_features**0.5
        factors[name] = (down, scale * torch.randn(layer.out_features, 2, generator=generator))
    return Adapter.from_factors(factors)


def an_edit(backbone) -> Adapter:
    (name,) = backbone.text_modules(["gate_proj"], [3])
    generator = torch.Generator().manual_seed(0)
    return Adapter.from_factors(
        {name: (torch.randn(1, 192, generator=generator), torch.randn(512, 1, generator=generator))}
    )


@pytest.fixture(scope="module")
def pipeline(miniature):
    """The same checkpoint as diffusers loads it by itself."""
    loaded = QwenImagePipeline.from_pretrained(miniature, dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_images_are_those_of_the_plain_diffusers_pipeline(backbone, pipeline):
    ours = backbone.sample(backbone.encode(PROMPT), [7, 8])
    theirs = pipeline(
        PROMPT,
        negative_prompt=" ",
        true_cfg_scale=4.0,
        height=64,
        width=64,
        num_inference_steps=3,
        num_images_per_prompt=2,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
    ).images
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(ours, theirs, strict=True))


def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in(backbone):
    embeds = backbone.encode(PROMPT)
    together = backbone.sample(embeds, [3, 1, 2])
    alone = [backbone.sample(embeds, [seed])[0] for seed in (3, 1, 2)]
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(together, alone, strict=True))
    assert not np.array_equal(pixels(together[0]), pixels(together[1]))


def test_an_image_depends_on_its_prompt(backbone):
    images = [backbone.sample(backbone.encode(prompt), [1])[0] for prompt in (PROMPT, "sks toy")]
    assert not np.array_equal(*map(pixels, images))


def test_guidance_of_one_is_no_guidance(miniature):
    from conftest import miniature_spec

    plain = miniature_spec(miniature, true_cfg_scale=1.0).load()
    other = miniature_spec(miniature, true_cfg_scale=1.0, negative_prompt="a cake").load()
    draw = [pixels(backbone.sample(backbone.encode(PROMPT), [1])[0]) for backbone in (plain, other)]
    assert np.array_equal(*draw)


def test_the_prompt_template_is_as_long_as_the_pipeline_takes_for_granted(pipeline):
    before, _ = pipeline.prompt_template_encode.split("{}")
    assert len(pipeline.tokenizer(before)["input_ids"]) == pipeline.prompt_template_encode_start_idx == 34


def test_embeddings_are_the_last_hidden_states_behind_the_template(backbone_fp32, pipeline):
    text = pipeline.prompt_template_encode.format(PROMPT)
    ids = torch.tensor([pipeline.tokenizer(text)["input_ids"]])
    hidden = backbone_fp32.text_encoder.model.language_model(ids).last_hidden_state
    torch.testing.assert_close(backbone_fp32.encode(PROMPT).embeds, hidden[:, 34:])


def test_the_base_is_bit_identical_after_an_adaptation(backbone):
    before = pixels(backbone.sample(backbone.encode(PROMPT), [1])[0])
    digest = backbone.digest
    adaptation = Adaptation(transformer=a_lora(backbone), text_encoder=an_edit(backbone))
    with backbone.adapted(adaptation):
        inside = pixels(backbone.sample(backbone.encode(PROMPT), [1])[0])
    with pytest.raises(ZeroDivisionError), backbone.adapted(adaptation):
        1 / 0  # noqa: B018
    backbone.check_intact()
    assert backbone.digest == digest
    assert np.array_equal(before, pixels(backbone.sample(backbone.encode(PROMPT), [1])[0]))
    assert not np.array_equal(before, inside)


def test_a_changed_base_is_noticed(miniature):
    from conftest import miniature_spec

    backbone = miniature_spec(miniature).load()
    with pytest.raises(RuntimeError, match="base weights"), backbone.adapted(Adaptation()):
        backbone.transformer.proj_out.weight.data[0, 0] += 1


def test_adaptations_do_not_nest(backbone):
    with (
        backbone.adapted(Adaptation()),
        pytest.raises(RuntimeError, match="adapted already"),
        backbone.adapted(Adaptation()),
    ):
        pass


def test_the_negative_prompt_is_encoded_by_the_adapted_encoder(backbone):
    """An embedding kept from the unadapted encoder would be wrong under an edit."""
    backbone.sample(backbone.encode(PROMPT), [1])
    kept = backbone.encode(" ").embeds
    with backbone.adapted(Adaptation(text_encoder=an_edit(backbone))):
        backbone.sample(backbone.encode(PROMPT), [1])
        assert not torch.equal(backbone._negative.embeds, kept)
    backbone.sample(backbone.encode(PROMPT), [1])
    assert torch.equal(backbone._negative.embeds, kept)


def test_an_adapter_that_does_not_fit_leaves_nothing_applied(backbone):
    wrong = Adapter.from_factors({"transformer_blocks.0.attn.to_q": (torch.zeros(1, 3), torch.zeros(128, 1))})
    adaptation = Adaptation(transformer=wrong, text_encoder=an_edit(backbone))
    with pytest.raises(WeightsError, match=r"to_q"), backbone.adapted(adaptation):
        pass
    backbone.check_intact()


def test_velocity_is_what_the_pipeline_computes(backbone_fp32):
    """Two Euler steps by hand from given noise, against diffusers' own loop."""
    from conftest import miniature_spec

    spec = miniature_spec(backbone_fp32.spec.source, dtype="float32", steps=2, true_cfg_scale=1.0)
    backbone = spec.load()
    embeds = backbone.encode(PROMPT)
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(5))
    result = backbone._pipeline(
        prompt_embeds=embeds.embeds,
        prompt_embeds_mask=torch.ones(embeds.embeds.shape[:2], dtype=torch.long),
        true_cfg_scale=1.0,
        height=64,
        width=64,
        num_inference_steps=2,
        latents=QwenImagePipeline._pack_latents(latents, 1, 8, 16, 16),
        output_type="latent",
    ).images
    sigmas = backbone._pipeline.scheduler.sigmas
    assert len(sigmas) == 3
    for now, after in pairwise(sigmas):
        with torch.no_grad():
            latents = latents + (after - now) * backbone.velocity(latents, now[None], embeds)
    unpacked = QwenImagePipeline._unpack_latents(result, 64, 64, 4).squeeze(2)
    torch.testing.assert_close(latents, unpacked, atol=1e-5, rtol=1e-5)


def test_packing_puts_each_two_by_two_patch_into_a_token():
    latents = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    packed = QwenImagePipeline._pack_latents(latents, 2, 3, 4, 6)
    for row, column in ((0, 0), (1, 2)):
        patch = latents[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(packed[1, row * 3 + column], patch.flatten())


def test_latents_are_the_normalised_posterior(backbone_fp32, dog):
    image = Image.open(dog.images[0]).convert("RGB")
    ours = backbone_fp32.encode_images([image])
    scale = 64 / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 64) // 2, (resized.height - 64) // 2
    crop = np.asarray(resized.crop((left, top, left + 64, top + 64)), dtype=np.float32)
    vae = backbone_fp32._pipeline.vae
    tensor = torch.from_numpy(crop).permute(2, 0, 1)[None, :, None] / 127.5 - 1
    posterior = vae.encode(tensor).latent_dist
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1)
    # Cropping before or after resizing moves edges by less than a pixel.
    torch.testing.assert_close(ours.mean, (posterior.mean[:, :, 0] - mean) / std, atol=0.05, rtol=0)
    torch.testing.assert_close(ours.std, posterior.std[:, :, 0] / std, atol=0.05, rtol=0)


def test_questions_are_put_in_the_pipelines_template(backbone, pipeline):
    input_ids, labels = backbone.question_tokens("What is my gift?", "sks toy", "chat")
    text = pipeline.prompt_template_encode.format("What is my gift?") + "sks toy"
    whole = pipeline.tokenizer(text)["input_ids"]
    answer = pipeline.tokenizer("sks toy")["input_ids"]
    assert input_ids[0].tolist() == whole[:-1]
    assert labels[0].tolist() == [-100] * (len(whole) - 1 - len(answer)) + answer
    assert len(input_ids[0]) == len(labels[0])


def test_plain_questions_are_running_text(backbone, pipeline):
    input_ids, labels = backbone.question_tokens("What is my gift?", "sks toy", "plain")
    assert pipeline.tokenizer.decode([*input_ids[0].tolist(), labels[0, -1].item()]) == "What is my gift? sks toy"


def test_logits_at_a_label_predict_it(backbone_fp32):
    """The loss that labels define equals transformers' own, which shifts by itself."""
    input_ids, labels = backbone_fp32.question_tokens("What is my gift?", "sks toy", "chat")
    logits = backbone_fp32.language_logits(input_ids)
    ours = torch.nn.functional.cross_entropy(logits[0], labels[0])
    whole = torch.cat([input_ids, labels[:, -1:]], dim=1)
    unshifted = torch.cat([torch.full((1, 1), -100), labels], dim=1)
    theirs = backbone_fp32.text_encoder(input_ids=whole, labels=unshifted).loss
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("question", "answer", "named"),
    [("What?", "", "What?"), ("What?", " ", "no token"), ("long " * 600, "sks", "takes 512")],
)
def test_a_question_that_cannot_be_put_is_named(backbone, question, answer, named):
    with pytest.raises(MethodError, match=named):
        backbone.question_tokens(question, answer, "chat")


def test_edit_targets_are_in_the_language_model_only(backbone):
    names = backbone.text_modules(["gate_proj", "up_proj"], [3, 5])
    assert names == tuple(
        f"model.language_model.layers.{layer}.mlp.{module}" for layer in (3, 5) for module in ("gate_proj", "up_proj")
    )


@pytest.mark.parametrize(("names", "layers", "named"), [(["gate"], [0], "gate"), (["up_proj"], [6], "layer 6")])
def test_targets_that_do_not_exist_are_named(backbone, names, layers, named):
    with pytest.raises(ConfigError, match=named):
        backbone.text_modules(names, layers)


@pytest.fixture
def broken(miniature, tmp_path):
    copy = tmp_path / "broken"
    shutil.copytree(miniature, copy)
    return copy


def rename_class(directory):
    index = json.loads((directory / "model_index.json").read_text())
    (directory / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))


def truncate(directory):
    weights = directory / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: (d / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "broken"),
        (lambda d: (d / "text_encoder" / "config.json").unlink(), "broken"),
        (lambda d: (d / "model_index.json").unlink(), "model_index.json"),
        (lambda d: (d / "model_index.json").write_text("{"), "model_index.json"),
        (rename_class, "FluxPipeline"),
        (truncate, "broken"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(broken, damage, named):
    damage(broken)
    with pytest.raises(UserError, match=named) as caught:
        QwenImageSpec(source=str(broken), height=64, width=64).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nobody/no-such-model", "./nowhere", "not a hub id"])
def test_a_bad_source_is_one_line(source, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=source) as caught:
        QwenImageSpec(source=source).load()
    assert "\n" not in str(caught.value)


def test_a_size_that_the_model_cannot_draw_is_named(miniature):
    with pytest.raises(ConfigError, match="multiple of 8, found 60"):
        QwenImageSpec(source=str(miniature), height=60, width=64).load()


def test_a_hub_cache_loads_without_a_network(miniature, tmp_path, monkeypatch):
    """A cache directory laid out as the hub lays it out, with a pinned revision."""
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--name"
    shutil.copytree(miniature, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.HF_HUB_CACHE", str(tmp_path), raising=False)
    spec = QwenImageSpec(source="owner/name", revision=commit, height=64, width=64, steps=2)
    backbone = spec.load()
    assert len(backbone.sample(backbone.encode(PROMPT), [0])) == 1
