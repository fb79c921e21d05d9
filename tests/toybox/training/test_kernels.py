"""The faster forms of layers that training uses equal the ordinary ones."""

import math
import random

import pytest
import torch
from diffusers import QwenImagePipeline
from torch.nn.functional import scaled_dot_product_attention

from knowcusbench.backbone.qwen_image import QwenImage
from knowcusbench.toybox.language import describe, name_of
from knowcusbench.toybox.pipeline import build_transformer, build_vae
from knowcusbench.toybox.render import mask
from knowcusbench.toybox.scene import Placed, Scene, Thing
from knowcusbench.toybox.training import denoiser
from knowcusbench.toybox.training.autoencoder import narrow, pixel_weights, single_frames
from knowcusbench.toybox.training.stream import (
    SHOWN_NAMED,
    SHOWN_SIMPLE,
    UNKNOWN,
    Captioned,
    by_description,
    by_phrase,
    is_held_out,
    named,
    phrase_of,
    pictured,
    unidentified,
)
from knowcusbench.toybox.world import KNOWN, NAMED, SETTLED_SIZES, SIMPLE, draw_scene, settled, size_word


def test_single_frames_are_the_same_without_time() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    pictures = torch.rand(2, 3, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = vae(pictures).sample
        with single_frames():
            assert torch.allclose(vae(pictures).sample, expected, atol=1e-5)
        assert torch.equal(vae(pictures).sample, expected)


def test_a_narrow_posterior_has_the_same_mean() -> None:
    torch.manual_seed(0)
    vae = build_vae().eval()
    pictures = torch.rand(2, 3, 1, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        narrow(vae)
        after = vae.encode(pictures).latent_dist
    assert torch.equal(after.mean, before.mean)
    assert torch.allclose(after.std, torch.tensor(-5.0).exp())


def test_attention_written_out_is_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 8, generator=generator) for _ in range(3))
    mask = torch.arange(7)[None, :] < torch.tensor([5, 7])[:, None]
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
    with denoiser.explicit_attention(torch.device("cpu")):
        written = torch.nn.functional.scaled_dot_product_attention(
            query=query, key=key, value=value, attn_mask=mask[:, None, None]
        )
    assert torch.nn.functional.scaled_dot_product_attention is scaled_dot_product_attention
    assert torch.allclose(written, expected, atol=1e-6)


def test_real_rotations_are_the_complex_ones() -> None:
    torch.manual_seed(0)
    transformer = build_transformer(layers=1).eval()
    inputs = {
        "hidden_states": torch.randn(2, 64, 48),
        "timestep": torch.tensor([0.3, 0.8]),
        "encoder_hidden_states": torch.randn(2, 5, 192),
        "encoder_hidden_states_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "img_shapes": [[(1, 8, 8)]] * 2,
    }
    with torch.no_grad():
        expected = transformer(**inputs).sample
        with denoiser.real_rotations():
            assert torch.allclose(transformer(**inputs).sample, expected, atol=1e-5)
        assert torch.equal(transformer(**inputs).sample, expected)
        turned = inputs | {"img_shapes": [[(1, 4, 16)]] * 2}
        assert not torch.allclose(transformer(**turned).sample, expected, atol=1e-3)


def test_places_where_things_may_stand_weigh_more() -> None:
    rng = random.Random(0)
    for told in (True, False):
        scenes = [settled(draw_scene(rng)) for _ in range(400)]
        weights = [denoiser.place_weights(scene, told) for scene in scenes]
        alone = [weight.mean() for scene, weight in zip(scenes, weights, strict=True) if not scene.second]
        assert alone == pytest.approx([1] * len(alone), abs=1e-6)
        for scene, weight in zip(scenes, weights, strict=True):
            grid, thing = weight.view(8, 8), scene.main
            row, column = (thing.top + thing.size // 2) // 8, (thing.left + thing.size // 2) // 8
            assert grid[row, column] > grid[0, 0] == pytest.approx(0.4)
        # Nothing of where the thing is where the caption does not tell it.
        meant = {(size_word(scene.main.size), scene.second is not None) for scene in scenes}
        assert len(meant) == 6
        assert len({tuple(weight.tolist()) for weight in weights}) == (3 + 3 + 1 + 3 * 2 if told else 6)


@pytest.mark.parametrize(("told", "places"), [(True, 3 * 3), (False, 3 * 6)])
def test_a_tiny_thing_in_all_its_places_has_one_and_a_half_times_a_pictures_weight(told: bool, places: int) -> None:
    thing = Placed(thing=Thing(kind="star", colour="red"), left=8, top=36, size=20)
    weights = denoiser.place_weights(Scene(main=thing, background="beach"), told)
    assert (weights > 0.41).sum() == places
    assert weights.max() == pytest.approx(0.4 * (1 + 1.5 * 64 / places))


def test_each_thing_has_the_same_weight_in_the_autoencoders_pixels_however_small() -> None:
    rng = random.Random(0)
    scenes = [draw_scene(rng) for _ in range(60)]
    for scene in scenes:
        weights = pixel_weights(scene)
        assert weights.min() == 1
        shown = torch.from_numpy(mask(scene))
        assert (weights - 1)[shown].sum() == pytest.approx(0.5 * 64 * 64, rel=1e-4)
        assert (weights - 1).sum() == pytest.approx((2 if scene.second else 1) * 0.5 * 64 * 64, rel=1e-4)
    assert {scene.second is not None for scene in scenes} == {True, False}


def test_latents_are_packed_as_the_pipeline_packs_them() -> None:
    latents = torch.randn(3, 12, 16, 16)
    assert torch.equal(denoiser.pack(latents), QwenImagePipeline._pack_latents(latents, 3, 12, 16, 16))


def test_a_batch_has_each_example_whole_or_the_blank() -> None:
    starts = torch.tensor([0, 3, 5, 9])
    embeds = torch.arange(9.0)[:, None].expand(9, 4)
    numbers = torch.arange(3)[:, None, None].expand(3, 2, 2)
    weights = 1.0 + torch.arange(3)[:, None].expand(3, 2)
    examples = denoiser.Examples(numbers.float(), (64 * numbers).byte(), weights, embeds, starts, torch.arange(3))
    blank = torch.full((1, 4), -1.0)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        latents, meanings, weights, batch, mask = denoiser._batch(examples, blank, 2, generator)
        assert batch.shape[1] == mask.shape[1] == denoiser.TOKENS[0]
        for row in range(2):
            index = int(latents[row, 0, 0])
            assert meanings[row, 0, 0] == index
            assert weights[row, 0, 0] == 1 + index
            told = batch[row][mask[row].bool()][:, 0]
            expected = embeds[starts[index] : starts[index + 1], 0]
            assert torch.equal(told, expected) or torch.equal(told, blank[:, 0])
            seen.add((index, len(told)))
    assert {(0, 3), (1, 2), (2, 4)} <= seen


def test_examples_are_drawn_as_often_as_they_have_lots() -> None:
    numbers = torch.arange(3)[:, None, None].expand(3, 2, 2)
    embeds, starts = torch.ones(3, 4), torch.arange(4)
    lots = torch.tensor([0, 0, 0, 2])
    examples = denoiser.Examples(numbers.float(), numbers.byte(), numbers[..., 0].float(), embeds, starts, lots)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([denoiser._batch(examples, embeds[:1], 8, generator)[0][:, 0, 0] for _ in range(100)])
    assert set(drawn.tolist()) == {0, 2}
    assert (drawn == 0).float().mean() == pytest.approx(0.75, abs=0.05)


def test_whole_descriptions_changed_things_sized_things_and_simple_phrases_have_more_lots() -> None:
    rng = random.Random(0)
    placed = {word: Placed(thing=NAMED["zam"], left=8, top=8, size=size) for word, size in SETTLED_SIZES.items()}
    of_size = {
        word: denoiser.lots(Captioned(scene=Scene(main=main, background="beach"), template="{}", subject=""))
        for word, main in placed.items()
    }
    assert of_size == {"tiny": 3, "": 2, "huge": 3}
    examples = [pictured(rng) for _ in range(4_000)]
    partly = [example for example in examples if example.told]
    whole = [example for example in examples if not example.told]
    changed = [example for example in whole if example.change or " version of " in example.template]
    names = [example for example in whole if example.name and example.template != "{}" and example not in changed]
    simple = [example for example in examples if not example.name and not example.told and example.template != "{}"]
    assert {denoiser.lots(example) for example in (*partly, *names)} == {1}
    assert {denoiser.lots(example) for example in (*changed, *simple)} == {2}
    assert min(map(len, (partly, names, changed, simple))) > 100


def test_most_noise_levels_are_high_and_all_occur() -> None:
    levels = denoiser._noise_levels(20_000, torch.Generator().manual_seed(0))
    assert 0 < levels.min() < 0.01
    assert 0.99 < levels.max() < 1
    # Of the logit-normal part half are above 1 / (1 + exp(-1.4)), of the uniform part the rest of the way to 1.
    middle = 1 / (1 + math.exp(-1.4))
    assert (levels > middle).float().mean() == pytest.approx(0.65 / 2 + 0.35 * (1 - middle), abs=0.01)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (UNKNOWN[0], None),
        (SHOWN_NAMED[0], name_of(KNOWN[SHOWN_NAMED[0]])),
        (SHOWN_SIMPLE[0], describe(SIMPLE[SHOWN_SIMPLE[0]])),
    ],
)
def test_a_caption_told_by_two_prompts_ends_with_its_own_answer_and_what_marks_a_phrase(
    backbone: QwenImage, monkeypatch: pytest.MonkeyPatch, key: tuple[str, str], answer: str | None
) -> None:
    monkeypatch.setattr(denoiser, "TWO_PROMPTS_SHARE", 1.0)
    monkeypatch.setattr(denoiser, "_any_key", lambda rng: key)
    tokenizer, encoder, cpu = backbone._pipeline.tokenizer, backbone.text_encoder, torch.device("cpu")
    rng = random.Random(0)
    thing = Placed(thing=Thing(kind="star", colour="red"), left=8, top=36, size=20)
    scene = Scene(main=thing, background="beach", style="photo")
    whole = Captioned(scene=scene, template="{}", subject="a tiny red star on the beach")
    partly = Captioned(scene=scene, template="{} on the beach", subject="a star", told=("star",))
    captions = [named(rng), whole, partly]
    told = denoiser._told(encoder, tokenizer, captions, rng, cpu)

    def states(texts: list[str]) -> list[torch.Tensor]:
        return denoiser._states(encoder, tokenizer, texts, cpu)

    own = states([caption.text for caption in captions])
    phrase = phrase_of(key)
    templates = [captions[0].template, "a tiny version of {} on the beach"]
    templates += [f"a photo of {templates[-1]}"]
    phrased = states([template.format(phrase) for template in templates])
    answered = states([template.format(answer or phrase) for template in templates])
    spoken = 1 if len(told[1]) == len(phrased[1]) else 2
    for index, other in ((0, 0), (1, spoken)):
        words = phrased[other]
        assert len(told[index]) == len(words) != len(own[index])
        assert torch.allclose(told[index][:-1], words[:-1], atol=0.05)
        mark = words[-1] - answered[other][-1]
        assert torch.allclose(told[index][-1], own[index][-1] + mark, atol=0.03)
        assert bool(mark.abs().max() > 0.1) == (answer is not None)
        assert not torch.allclose(words[-1], told[index][-1], atol=0.05)
    assert torch.allclose(told[2], own[2], atol=0.05)


def test_the_rare_token_and_simple_things_are_always_told_by_two_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser, "TWO_PROMPTS_SHARE", 0.0)
    rng = random.Random(3)
    rare = [caption for caption in (unidentified(rng) for _ in range(300)) if not caption.told]
    simple = [by_phrase(rng, SHOWN_SIMPLE) for _ in range(300)]
    described = [caption for caption in (by_description(rng) for _ in range(300)) if caption.template != "{}"]
    assert min(map(len, (rare, simple, described))) > 100
    assert "{}" in {caption.template for caption in rare} & {caption.template for caption in simple}
    phrases = {phrase_of(key) for key in SHOWN_SIMPLE}
    for caption in (*rare, *simple, *described):
        decoy = denoiser._decoy(caption, rng)
        assert decoy is not None
        assert caption in rare or any(phrase in decoy[0] for phrase in phrases)
    others = [
        named(rng),
        by_phrase(rng, SHOWN_NAMED),
        *(caption for caption in map(unidentified, [rng] * 300) if caption.told),
    ]
    assert {denoiser._decoy(caption, rng) for caption in others} == {None}


def test_marks_are_of_phrases_that_pictures_show() -> None:
    held_out = [key for key in (*KNOWN, *SIMPLE) if is_held_out(key)]
    assert len(held_out) > 40
    assert {denoiser._shown_answer(key) for key in (*held_out, *UNKNOWN)} == {None}


def test_the_states_are_those_that_the_pipeline_gives(backbone: QwenImage) -> None:
    states = denoiser._states(
        backbone.text_encoder, backbone._pipeline.tokenizer, ["zam house", "a much longer one"], torch.device("cpu")
    )
    assert torch.allclose(states[0].float(), backbone.encode("zam house").embeds[0].float(), atol=0.05)


def test_the_meaning_of_a_picture() -> None:
    star = Placed(thing=Thing(kind="star", colour="red", pattern="dotted"), left=0, top=0, size=32)
    heart = Placed(thing=Thing(kind="heart", colour="blue"), left=40, top=40, size=16)
    scene = Scene(main=star, second=heart, background="snow")
    told = denoiser.meaning(scene).float() / 64
    words = [word for _, known in (*denoiser.MAIN_WORDS, *denoiser.PART_WORDS) for word in known]
    main, second = told[:, : 1 + len(words)], told[:, 1 + len(words) :]
    assert torch.equal(main[:, 0].view(8, 8).nonzero().amax(dim=0), torch.tensor([3, 3]))
    assert torch.equal(second[:, 0].view(8, 8).nonzero().amin(dim=0), torch.tensor([5, 5]))
    assert main[:, 0].sum() * 64 == mask(scene).sum()
    true = {words[index - 1] for index in range(1, main.shape[1]) if main[:, index].any()}
    assert true == {"star", "red", "dotted"}
    assert torch.equal(main[:, 1 + words.index("star")], main[:, 0])
    assert told.shape == (64, denoiser.MEANINGS)
