"""Encoding, sampling, and being adapted."""

import copy
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import miniature_spec
from diffusers import QwenImagePipeline
from PIL import Image

from knowcusbench.adapters.types import Adaptation, Adapter, Gate
from knowcusbench.errors import WeightsError

PROMPT = "a red robot on the beach"


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


def draw(backbone, prompt: str = PROMPT, seed: int = 1) -> np.ndarray:
    return pixels(backbone.sample(backbone.encode(prompt), [seed])[0])


def test_diffusers_loads_the_miniature_by_itself(pipeline, backbone):
    assert type(pipeline) is QwenImagePipeline
    dtype = backbone.spec.torch_dtype
    assert pipeline.transformer.dtype == pipeline.text_encoder.dtype == pipeline.vae.dtype == dtype


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_images_are_those_of_the_plain_diffusers_pipeline(size, miniature, pipeline):
    height, width = size
    backbone = miniature_spec(miniature, height=height, width=width, vae_slicing=False).load()
    ours = backbone.sample(backbone.encode(PROMPT), [7, 8])
    theirs = pipeline(
        PROMPT,
        negative_prompt=" ",
        true_cfg_scale=4.0,
        height=height,
        width=width,
        num_inference_steps=3,
        num_images_per_prompt=2,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
    ).images
    assert backbone.image_size == size
    assert ours[0].size == (width, height)
    assert all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("seeds_per_batch", [3, 7])
def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in(miniature, dtype, seeds_per_batch):
    """On the CPU, at a size and number of steps where last bits would add up to visible differences; smaller where
    bf16 is emulated."""
    emulated = dtype != miniature_spec(miniature).dtype == "float32"
    size = {"height": 32, "width": 32, "steps": 2} if emulated else {"height": 96, "width": 96, "steps": 8}
    spec = miniature_spec(miniature, dtype=dtype, seeds_per_batch=seeds_per_batch, **size)
    backbone = spec.load()
    embeds = backbone.encode(PROMPT)
    seeds = list(range(7))
    alone = [pixels(backbone.sample(embeds, [seed])[0]) for seed in seeds]
    assert len({image.tobytes() for image in alone}) == len(seeds)
    for batch in (seeds, [5, 3], [6, 0, 2]):
        for seed, image in zip(batch, backbone.sample(embeds, batch), strict=True):
            assert np.array_equal(pixels(image), alone[seed])


def test_an_image_depends_on_its_prompt(backbone):
    assert not np.array_equal(draw(backbone), draw(backbone, "sks robot"))


def test_sampling_leaves_the_global_generator(backbone):
    state = torch.random.get_rng_state()
    draw(backbone)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_guidance_of_one_is_no_guidance(miniature):
    plain = miniature_spec(miniature, true_cfg_scale=1.0).load()
    other = miniature_spec(miniature, true_cfg_scale=1.0, negative_prompt="a cake").load()
    assert np.array_equal(draw(plain), draw(other))


def test_guidance_leads_away_from_the_negative_prompt(miniature):
    blank = miniature_spec(miniature).load()
    other = miniature_spec(miniature, negative_prompt="a cake").load()
    assert not np.array_equal(draw(blank), draw(other))


def test_embeddings_are_the_last_hidden_states_behind_the_template(backbone_fp32, pipeline):
    text = pipeline.prompt_template_encode.format(PROMPT)
    ids = torch.tensor([pipeline.tokenizer(text)["input_ids"]])
    hidden = backbone_fp32.text_encoder.model.language_model(ids).last_hidden_state
    torch.testing.assert_close(backbone_fp32.encode(PROMPT).embeds, hidden[:, 34:])


def test_a_prompt_that_is_cut_is_said_with_its_length(backbone, monkeypatch, capsys):
    """Two prompts that differ behind the cut give the same image."""
    fitting = backbone.encode(PROMPT).embeds.shape[1]
    monkeypatch.setattr(type(backbone.family), "most_tokens", fitting)
    backbone.encode(PROMPT)
    assert "truncated" not in capsys.readouterr().err
    cut = backbone.encode(f"{PROMPT} {PROMPT}")
    assert cut.embeds.shape[1] == fitting
    assert re.search(rf"prompt truncated to {fitting} of its \d+ tokens", capsys.readouterr().err)


def test_a_prompt_is_encoded_alike_whatever_was_encoded_before(backbone):
    first = backbone.encode(PROMPT)
    for other in ("sks robot", "a much longer prompt about something else altogether, with a comma", PROMPT):
        again = backbone.encode(other)
    assert torch.equal(first.embeds, again.embeds)
    assert first.mask is None
    assert not first.embeds.requires_grad


def test_the_base_is_bit_identical_after_an_adaptation(backbone):
    before, digest = draw(backbone), backbone.digest
    adaptation = Adaptation(transformer=a_lora(backbone), text_encoder=an_edit(backbone))
    with backbone.adapted(adaptation):
        inside = draw(backbone)
    with pytest.raises(ZeroDivisionError), backbone.adapted(adaptation):
        1 / 0  # noqa: B018
    backbone.check_intact()
    assert backbone.digest == digest
    assert np.array_equal(before, draw(backbone))
    assert not np.array_equal(before, inside)


def edits_of_every_kind(backbone) -> list[Adaptation]:
    edit = an_edit(backbone)
    gate = Gate({name: torch.randn(3, 192) for name in edit.config["target_modules"]}, temperature=0.1, bias=0.0)
    (name,) = backbone.text_modules(["up_proj"], [1])
    other = Adapter.from_factors({name: (torch.ones(1, 192), torch.ones(512, 1))})
    kinds = [edit, replace(edit, merged=True), replace(edit, gate=gate), other, None]
    return [Adaptation(a_lora(backbone) if kind is None else None, kind) for kind in kinds]


def test_sequences_of_adaptations_leave_every_bit_of_the_text_encoder(backbone):
    generator = random.Random(0)
    adaptations = edits_of_every_kind(backbone)
    tokens = torch.tensor([[3, 14, 15, 92]])
    with torch.no_grad():
        before, plain = copy.deepcopy(backbone.text_encoder.state_dict()), backbone.language_logits(tokens)
        for _ in range(50):
            for adaptation in generator.sample(adaptations, generator.randint(1, 3)):
                with backbone.adapted(adaptation):
                    changed = not torch.equal(backbone.language_logits(tokens), plain)
                    assert changed == (adaptation.text_encoder is not None)
            after = backbone.text_encoder.state_dict()
            assert after.keys() == before.keys()
            assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
            assert torch.equal(backbone.language_logits(tokens), plain)


def test_an_edited_encoder_encodes_like_one_with_merged_weights(backbone_fp32):
    edit = an_edit(backbone_fp32)
    (name,) = backbone_fp32.text_modules(["gate_proj"], [3])
    merged = copy.deepcopy(backbone_fp32.text_encoder)
    down, up = (edit.weights[f"{name}.{factor}.weight"] for factor in ("lora_A", "lora_B"))
    merged.get_submodule(name).weight.data += up @ down
    with backbone_fp32.adapted(Adaptation(text_encoder=edit)):
        edited = backbone_fp32.encode(PROMPT).embeds
    unedited = backbone_fp32.encode(PROMPT).embeds
    ids = backbone_fp32._token_ids(backbone_fp32._pipeline.prompt_template_encode.format(PROMPT))
    with torch.no_grad():
        expected = merged.model.language_model(torch.tensor([ids])).last_hidden_state[:, 34:]
    torch.testing.assert_close(edited, expected, atol=1e-4, rtol=1e-4)
    assert (edited - unedited).abs().max() > 0.1


def test_a_changed_base_is_noticed(miniature):
    backbone = miniature_spec(miniature).load()
    with pytest.raises(RuntimeError, match="base weights"), backbone.adapted(Adaptation()):
        backbone.transformer.proj_out.weight.data[0, 0] += 1


def test_a_changed_base_is_noticed_after_an_exception_too(miniature):
    backbone = miniature_spec(miniature).load()

    def use() -> None:
        with backbone.adapted(Adaptation()):
            backbone.text_encoder.lm_head.weight.data[0, 0] += 1
            raise KeyError("the first fault")

    with pytest.raises(RuntimeError, match="base weights") as caught:
        use()
    assert isinstance(caught.value.__context__, KeyError)


def test_adaptations_do_not_nest(backbone):
    with (
        backbone.adapted(Adaptation()),
        pytest.raises(RuntimeError, match="adapted already"),
        backbone.adapted(Adaptation()),
    ):
        pass


def test_the_negative_prompt_is_encoded_by_the_adapted_encoder(backbone):
    """An embedding kept from the unadapted encoder would be wrong under an edit."""
    draw(backbone)
    kept = backbone.encode(" ").embeds
    with backbone.adapted(Adaptation(text_encoder=an_edit(backbone))):
        draw(backbone)
        assert not torch.equal(backbone._negative.embeds, kept)
    draw(backbone)
    assert torch.equal(backbone._negative.embeds, kept)


def test_an_adapter_that_does_not_fit_leaves_nothing_applied(backbone):
    wrong = Adapter.from_factors({"transformer_blocks.0.attn.to_q": (torch.zeros(1, 3), torch.zeros(128, 1))})
    adaptation = Adaptation(transformer=wrong, text_encoder=an_edit(backbone))
    with pytest.raises(WeightsError, match=r"to_q"), backbone.adapted(adaptation):
        pass
    backbone.check_intact()
    with backbone.adapted(Adaptation(text_encoder=an_edit(backbone))):
        pass


def test_edit_targets_are_in_the_language_model(backbone):
    assert backbone.layer_count == 6
    assert backbone.text_modules(["up_proj"], [5]) == ("model.language_model.layers.5.mlp.up_proj",)
