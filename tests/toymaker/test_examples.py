"""The transformer's training examples."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline

from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.toybox.shipped import WEIGHTS
from knowcusbench.toybox.world.language import describe, name_of
from knowcusbench.toybox.world.render import mask
from knowcusbench.toybox.world.scene import Placed, Scene, Thing
from knowcusbench.toybox.world.world import KNOWN, NAMED, SETTLED_SIZES, SIMPLE, draw_scene, settled, size_word
from knowcusbench.toymaker import examples
from knowcusbench.toymaker.stream import (
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


def test_places_where_things_may_stand_weigh_more() -> None:
    rng = random.Random(0)
    for told in (True, False):
        scenes = [settled(draw_scene(rng)) for _ in range(400)]
        weights = [examples.place_weights(scene, told) for scene in scenes]
        alone = [weight.mean() for scene, weight in zip(scenes, weights, strict=True) if not scene.second]
        assert alone == pytest.approx([1] * len(alone), abs=1e-6)
        for scene, weight in zip(scenes, weights, strict=True):
            grid, thing = weight.view(8, 8), scene.main
            row, column = (thing.top + thing.size // 2) // 8, (thing.left + thing.size // 2) // 8
            assert grid[row, column] > grid[0, 0] == pytest.approx(0.4)
        # No weight depends on the thing's position if the caption does not mention it.
        meant = {(size_word(scene.main.size), scene.second is not None) for scene in scenes}
        assert len(meant) == 6
        assert len({tuple(weight.tolist()) for weight in weights}) == (3 + 3 + 1 + 3 * 2 if told else 6)


@pytest.mark.parametrize(("told", "places"), [(True, 3 * 3), (False, 3 * 6)])
def test_a_tiny_thing_in_all_its_places_has_one_and_a_half_times_a_pictures_weight(told: bool, places: int) -> None:
    thing = Placed(thing=Thing(kind="star", colour="red"), left=8, top=36, size=20)
    weights = examples.place_weights(Scene(main=thing, background="beach"), told)
    assert (weights > 0.41).sum() == places
    assert weights.max() == pytest.approx(0.4 * (1 + 1.5 * 64 / places))


def test_latents_are_packed_as_the_pipeline_packs_them() -> None:
    latents = torch.randn(3, 12, 16, 16)
    assert torch.equal(examples.pack(latents), QwenImagePipeline._pack_latents(latents, 3, 12, 16, 16))


def numbered(lots: torch.Tensor, starts: Sequence[int] = (0, 3, 5, 9, 10)) -> examples.Examples:
    """Return three examples whose tensors hold their index, and a blank of -1."""
    numbers = torch.arange(3.0)
    pictures = examples.Pictures(
        numbers[:, None, None].expand(3, 2, 2),
        (64 * numbers[:, None, None]).expand(3, 2, 2).byte(),
        torch.tensor([[True, False]] * 3),
        1 + numbers[:, None].expand(3, 2),
    )
    embeds = torch.cat([torch.arange(9.0), torch.tensor([-1.0])])[:, None].expand(10, 4)
    return examples.Examples({"settled": pictures}, embeds, torch.tensor(starts), lots)


def test_a_batch_has_each_example_whole_or_the_blank() -> None:
    some = numbered(torch.arange(3))
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(50):
        batch = some.batch("settled", 2, generator)
        assert batch.embeds.shape[1] == batch.mask.shape[1] == examples.TOKENS[0]
        for row in range(2):
            index = int(batch.latents[row, 0, 0])
            assert batch.covered[row, 0, 0] == 64 * index
            assert batch.weights[row, 0] == 1 + index
            told = batch.embeds[row][batch.mask[row]][:, 0]
            expected = some.embeds[some.starts[index] : some.starts[index + 1], 0]
            assert torch.equal(told, expected) or told.tolist() == [-1]
            assert not batch.embeds[row][~batch.mask[row]].any()
            seen.add((index, len(told)))
    assert {(0, 3), (1, 2), (2, 4), (0, 1)} <= seen


def test_examples_are_drawn_as_often_as_they_have_lots() -> None:
    some = numbered(torch.tensor([0, 0, 0, 2]), (0, 3, 6, 9, 10))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([some.batch("settled", 8, generator).latents[:, 0, 0] for _ in range(100)])
    assert set(drawn.tolist()) == {0, 2}
    assert (drawn == 0).float().mean() == pytest.approx(0.75, abs=0.05)


def test_examples_are_the_same_from_the_file_and_in_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: DiffusersBackbone
) -> None:
    monkeypatch.setattr(examples, "PORTION", 3)
    monkeypatch.setattr(examples, "PORTIONS", {"free": 2, "settled": 4})
    models, tokenizer, cpu = WEIGHTS / "pipeline", backbone._pipeline.tokenizer, torch.device("cpu")
    whole = examples.load_examples(models, tokenizer, tmp_path, cpu)
    shares = [examples.load_examples(models, tokenizer, tmp_path / "shares", cpu, rank, 2) for rank in range(2)]
    assert len(whole.starts) == 12 + 1 + 1
    assert len(whole.pictures["free"].latents) == 6
    assert len(whole.pictures["settled"].latents) == 12
    for field in dataclasses.fields(examples.Pictures):
        # Each process has every other portion.
        parts = [getattr(share.pictures["settled"], field.name).split(3) for share in shares]
        together = torch.cat([part for pair in zip(*parts, strict=True) for part in pair])
        assert torch.equal(getattr(whole.pictures["settled"], field.name), together)
    last = slice(whole.starts[9], None)
    assert torch.equal(whole.embeds[last], shares[1].embeds[-len(whole.embeds[last]) :])
    monkeypatch.setattr(examples, "make_examples", None)
    again = examples.load_examples(models, tokenizer, tmp_path, cpu)
    assert torch.equal(again.embeds, whole.embeds)
    # Only the free pictures while those are used.
    assert whole.lots.max() == 11
    generator = torch.Generator().manual_seed(0)
    free = whole.batch("free", 8, generator).latents
    assert all(any(torch.equal(row, known) for known in whole.pictures["free"].latents) for row in free)


def test_whole_descriptions_changed_things_sized_things_and_simple_phrases_have_more_lots() -> None:
    rng = random.Random(0)
    placed = {word: Placed(thing=NAMED["zam"], left=8, top=8, size=size) for word, size in SETTLED_SIZES.items()}
    of_size = {
        word: examples.draw_weight(Captioned(scene=Scene(main=main, background="beach"), template="{}", subject=""))
        for word, main in placed.items()
    }
    assert of_size == {"tiny": 3, "": 2, "huge": 3}
    captions = [pictured(rng) for _ in range(4_000)]
    partly = [example for example in captions if example.described_words]
    whole = [example for example in captions if not example.described_words]
    changed = [example for example in whole if example.change or " version of " in example.template]
    names = [example for example in whole if example.name and example.template != "{}" and example not in changed]
    simple = [
        example for example in captions if not example.name and not example.described_words and example.template != "{}"
    ]
    assert {examples.draw_weight(example) for example in (*partly, *names)} == {1}
    assert {examples.draw_weight(example) for example in (*changed, *simple)} == {2}
    assert min(map(len, (partly, names, changed, simple))) > 100


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (UNKNOWN[0], None),
        (SHOWN_NAMED[0], name_of(KNOWN[SHOWN_NAMED[0]])),
        (SHOWN_SIMPLE[0], describe(SIMPLE[SHOWN_SIMPLE[0]])),
    ],
)
def test_a_caption_told_by_two_prompts_ends_with_its_own_answer_and_what_marks_a_phrase(
    backbone: DiffusersBackbone, monkeypatch: pytest.MonkeyPatch, key: tuple[str, str], answer: str | None
) -> None:
    monkeypatch.setattr(examples, "TWO_PROMPTS_SHARE", 1.0)
    monkeypatch.setattr(examples, "_any_key", lambda rng: key)
    tokenizer, encoder, cpu = backbone._pipeline.tokenizer, backbone.text_encoder, torch.device("cpu")
    rng = random.Random(0)
    thing = Placed(thing=Thing(kind="star", colour="red"), left=8, top=36, size=20)
    scene = Scene(main=thing, background="beach", style="photo")
    whole = Captioned(scene=scene, template="{}", subject="a tiny red star on the beach")
    partly = Captioned(scene=scene, template="{} on the beach", subject="a star", described_words=("star",))
    captions = [named(rng), whole, partly]
    texts = [caption.text for caption in captions]
    decoys = [examples._decoy(caption, rng) for caption in captions]
    told = examples._embeds(encoder, tokenizer, texts, decoys, cpu)

    def states(texts: list[str]) -> list[torch.Tensor]:
        return examples.states(encoder, tokenizer, texts, cpu)

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
    monkeypatch.setattr(examples, "TWO_PROMPTS_SHARE", 0.0)
    rng = random.Random(3)
    rare = [caption for caption in (unidentified(rng) for _ in range(300)) if not caption.described_words]
    simple = [by_phrase(rng, SHOWN_SIMPLE) for _ in range(300)]
    described = [caption for caption in (by_description(rng) for _ in range(300)) if caption.template != "{}"]
    assert min(map(len, (rare, simple, described))) > 100
    assert "{}" in {caption.template for caption in rare} & {caption.template for caption in simple}
    phrases = {phrase_of(key) for key in SHOWN_SIMPLE}
    for caption in (*rare, *simple, *described):
        decoy = examples._decoy(caption, rng)
        assert decoy is not None
        assert caption in rare or any(phrase in decoy[0] for phrase in phrases)
    others = [
        named(rng),
        by_phrase(rng, SHOWN_NAMED),
        *(caption for caption in map(unidentified, [rng] * 300) if caption.described_words),
    ]
    assert {examples._decoy(caption, rng) for caption in others} == {None}


def test_marks_are_of_phrases_that_pictures_show() -> None:
    held_out = [key for key in (*KNOWN, *SIMPLE) if is_held_out(key)]
    assert len(held_out) > 40
    assert {examples._shown_answer(key) for key in (*held_out, *UNKNOWN)} == {None}


def test_the_states_are_those_that_the_pipeline_gives(backbone: DiffusersBackbone) -> None:
    states = examples.states(
        backbone.text_encoder, backbone._pipeline.tokenizer, ["zam house", "a much longer one"], torch.device("cpu")
    )
    assert torch.allclose(states[0].float(), backbone.encode("zam house").embeds[0].float(), atol=0.05)


def test_the_meaning_of_a_picture() -> None:
    star = Placed(thing=Thing(kind="star", colour="red", pattern="dotted"), left=0, top=0, size=32)
    heart = Placed(thing=Thing(kind="heart", colour="blue"), left=40, top=40, size=16)
    scene = Scene(main=star, second=heart, background="snow")
    covered, words_told = examples.meaning(scene)
    told = examples.meanings(covered[None], words_told[None])[0]
    words = [word for _, known in (*examples.MAIN_WORDS, *examples.PART_WORDS) for word in known]
    main, second = told[:, : 1 + len(words)], told[:, 1 + len(words) :]
    assert torch.equal(main[:, 0].view(8, 8).nonzero().amax(dim=0), torch.tensor([3, 3]))
    assert torch.equal(second[:, 0].view(8, 8).nonzero().amin(dim=0), torch.tensor([5, 5]))
    assert main[:, 0].sum() * 64 == mask(scene).sum()
    true = {words[index - 1] for index in range(1, main.shape[1]) if main[:, index].any()}
    assert true == {"star", "red", "dotted"}
    assert torch.equal(main[:, 1 + words.index("star")], main[:, 0])
    assert told.shape == (64, examples.MEANINGS)
