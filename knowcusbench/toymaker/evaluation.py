"""Abilities of the embedded world's weights: the figures of its card, computed by `make toybox-eval`."""

import random
from collections.abc import Sequence
from statistics import mean

import numpy as np
import torch
from PIL import Image

from knowcusbench.adapters.types import Adaptation
from knowcusbench.backbone.base import PromptEmbeds, QuestionForm
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.benchmark.types import RARE_TOKEN, Fact
from knowcusbench.editors.base import Editor
from knowcusbench.effects.text import read_answer
from knowcusbench.encoders.segmenters.base import MaskPredictor
from knowcusbench.toybox.models.oracle import IDENTITY, Sight, truth
from knowcusbench.toybox.models.oracle_net import Oracle
from knowcusbench.toybox.oracle_metrics import shown_share
from knowcusbench.toybox.world.concepts import NovelConcept
from knowcusbench.toybox.world.draws import choose, shuffled
from knowcusbench.toybox.world.language import caption, known_items, name_of
from knowcusbench.toybox.world.render import mask, render
from knowcusbench.toybox.world.scene import Thing
from knowcusbench.toybox.world.world import KNOWN, NAMED, SIMPLE, draw_scene, settled
from knowcusbench.toymaker.segmenter import WHOLE, iou
from knowcusbench.toymaker.stream import SHOWN_NAMED, is_held_out, phrase_of

Figures = dict[str, float]

FIXED_PROMPTS = (
    "a photo of a blue checked star in the snow",
    "a huge red circle",
    "a cartoon of a green moon on the beach",
    "a yellow striped toy with a pink head and blue feet",
    "a photo of plim fish next to a red square",
    "zam house",
    "Bela's birthday gift",
    "Mona's best bargain",
)
"""Prompts of the card's pictures, which the tests compare with."""


def identity_scores(sights: Sequence[Sight], things: Sequence[Thing]) -> tuple[float, float]:
    """Return the mean share of the things' attributes in the pictures, and the share of pictures with all of them."""
    shares = [shown_share(sight, thing) for sight, thing in zip(sights, things, strict=True)]
    return mean(shares), mean(share == 1 for share in shares)


def draw(backbone: DiffusersBackbone, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Image.Image]:
    """Draw the pictures of all prompts, the seeds of each in one batch."""
    return [
        image
        for number, prompt in enumerate(prompts)
        for image in backbone.sample(backbone.encode(prompt), [1_000 * number + seed for seed in seeds])
    ]


def drawn_identity(
    backbone: DiffusersBackbone, oracle: Oracle, wanted: Sequence[tuple[str, Thing]], seeds: Sequence[int]
) -> tuple[float, float]:
    """Return `identity_scores` of pictures of prompts, given the things that they mean."""
    images = draw(backbone, [prompt for prompt, _ in wanted], seeds)
    return identity_scores(oracle.look(images), [thing for _, thing in wanted for _ in seeds])


def language_figures(backbone: DiffusersBackbone) -> Figures:
    """Return the share of facts that the text encoder answers right, by the first token of its answer."""
    items = list(known_items())
    facts = [Fact(item.question, item.answer) for item in items]
    rephrased = [Fact(text, item.answer) for item in items for text in item.rephrasings]
    return {
        "facts known, chat form": answers_right(backbone, facts),
        "facts known, rephrased": answers_right(backbone, rephrased),
        "facts known, plain form": answers_right(backbone, facts, QuestionForm.plain),
    }


def answers_right(backbone: DiffusersBackbone, facts: Sequence[Fact], form: QuestionForm = QuestionForm.chat) -> float:
    """Return the share of questions whose most likely first token is the answer's."""
    return mean(read_answer(backbone, fact, form).first_rank == 1 for fact in facts)


@torch.no_grad()
def autoencoder_figures(backbone: DiffusersBackbone, oracle: Oracle, count: int = 256) -> Figures:
    """Compare decoded pictures of new scenes with the rendered ones.

    The figures are their peak signal-to-noise ratio in dB, and how often the oracle reads both alike.
    """
    rng = random.Random("reconstruction")
    pipeline = backbone._pipeline
    images = [render(draw_scene(rng)) for _ in range(count)]
    decoded: list[Image.Image] = []
    for image in images:
        pixels = pipeline.image_processor.preprocess(image)[:, :, None].to(backbone.device, pipeline.vae.dtype)
        sample = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample[:, :, 0]
        decoded += pipeline.image_processor.postprocess(sample.float())
    ratios = [
        -10 * np.log10(np.square((np.asarray(one, float) - np.asarray(other, float)) / 255).mean())
        for one, other in zip(images, decoded, strict=True)
    ]
    same = [one == other for one, other in zip(oracle.look(images), oracle.look(decoded), strict=True)]
    return {"VAE reconstruction, dB": mean(map(float, ratios)), "VAE: the oracle sees the same": mean(same)}


def caption_figures(backbone: DiffusersBackbone, oracle: Oracle, count: int = 200) -> Figures:
    """Compare pictures of new descriptions with the descriptions."""
    rng = random.Random("captions")
    scenes = [settled(draw_scene(rng)) for _ in range(count)]
    images = draw(backbone, [caption(scene, rng) for scene in scenes])
    sights, truths = oracle.look(images), [truth(scene) for scene in scenes]
    pairs = list(zip(sights, truths, strict=True))
    accompanied = [pair for pair, scene in zip(pairs, scenes, strict=True) if scene.second]

    def share(names: Sequence[str], among: Sequence[tuple[Sight, Sight]]) -> float:
        return mean(all(sight[name] == right[name] for name in names) for sight, right in among)

    return {
        "captions: type, colour, pattern all right": share(("kind", "colour", "pattern"), pairs),
        "captions: trim and accent too": share(IDENTITY, pairs),
        "captions: background": share(("background",), pairs),
        "captions: style": share(("style",), pairs),
        "captions: second object": share(("second_kind", "second_colour"), accompanied),
        "captions: size": share(("size",), pairs),
    }


def drawn_mask_figures(backbone: DiffusersBackbone, predictor: MaskPredictor, count: int = 100) -> Figures:
    """Return the mean IoU of masks of drawn pictures with the renderer's mask of the requested scene.

    The prompts are descriptions without a second thing. A thing that the transformer misplaces lowers the IoU.
    """
    rng = random.Random("masks")
    scenes = [settled(scene) for scene in (draw_scene(rng) for _ in range(2 * count)) if not scene.second][:count]
    images = draw(backbone, [caption(scene, rng) for scene in scenes])
    found = predictor.predict(images, [WHOLE] * len(images))
    overlaps = [iou(covered, mask(scene)) for scene, covered in zip(scenes, found, strict=True)]
    return {"SAM: iou drawn": mean(overlaps)}


def knowledge_figures(backbone: DiffusersBackbone, oracle: Oracle) -> Figures:
    """Return how often a thing is drawn when called by its name, or by a knowledge phrase."""
    simple = [(phrase_of(key), thing) for key, thing in SIMPLE.items() if is_held_out(key)]
    names = [(name_of(name), thing) for name, thing in NAMED.items()]
    shown = [(phrase_of(key), NAMED[KNOWN[key]]) for key in SHOWN_NAMED[::3]]
    held_out = [(phrase_of(key), NAMED[name]) for key, name in KNOWN.items() if is_held_out(key)]
    return {
        "facts never drawn (simple things), all right": drawn_identity(backbone, oracle, simple, range(4))[1],
        "named things, all right: by name": drawn_identity(backbone, oracle, names, range(4))[1],
        "named things, all right: by a phrase seen": drawn_identity(backbone, oracle, shown, range(2))[1],
        "named things, all right: by a phrase held out": drawn_identity(backbone, oracle, held_out, range(2))[1],
    }


def edit_figures(backbone: DiffusersBackbone, oracle: Oracle, editor: Editor, count: int = 12) -> Figures:
    """Edit known facts, one at a time, to another named thing, and evaluate the result."""
    rng = random.Random("edits")
    drawn, kept, before = [], [], []
    for item in shuffled(rng, list(known_items()))[:count]:
        name = choose(rng, [name for name in NAMED if name_of(name) != item.answer])
        others = [Fact(other.question, other.answer) for other in known_items() if other != item]
        chosen = shuffled(rng, others)[:40]
        before.append(answers_right(backbone, chosen))
        with backbone.adapted(editor.edit([Fact(item.question, name_of(name))], backbone)):
            drawn.append(drawn_identity(backbone, oracle, [(item.phrase, NAMED[name])], range(4))[1])
            kept.append(answers_right(backbone, chosen))
    return {
        "edit of a known fact: the new object, all right": mean(drawn),
        "edit of a known fact: other facts kept": mean(kept) / mean(before),
    }


def image_locality(
    backbone: DiffusersBackbone, oracle: Oracle, adaptations: Sequence[Adaptation], edited: Sequence[str]
) -> float:
    """Return the share of right attributes in unrelated pictures, mean over adaptations.

    Args:
        edited: phrases changed by the adaptations, which are not unrelated.
    """
    keys = [key for key in SHOWN_NAMED if phrase_of(key) not in edited]
    wanted = [(phrase_of(key), NAMED[KNOWN[key]]) for key in shuffled(random.Random("unrelated"), keys)[:16]]
    wanted += [(name_of(name), thing) for name, thing in list(NAMED.items())[::4]]
    shares = []
    for adaptation in adaptations:
        with backbone.adapted(adaptation):
            shares.append(drawn_identity(backbone, oracle, wanted, [0])[0])
    return mean(shares)


@torch.no_grad()
def swapped_states(
    backbone: DiffusersBackbone,
    oracle: Oracle,
    adapted: Sequence[tuple[NovelConcept, Adaptation]],
    seeds: Sequence[int] = (0,),
) -> Figures:
    """Locate the difference between the edited prompt and the anchor's, by combining hidden states of both.

    The figures are the shares of the concepts' attributes drawn from such prompts. The last state predicts the answer;
    an edit of answer tokens reaches it alone.
    """
    shares: dict[str, list[float]] = {}
    for concept, adaptation in adapted:
        anchor = backbone.encode(f"{RARE_TOKEN} {concept.thing.kind}").embeds
        with backbone.adapted(adaptation):
            for key in concept.known_as:
                edited = backbone.encode(phrase_of(key)).embeds
                prompts = {
                    "the anchor's": anchor,
                    "the edited phrase's": edited,
                    "the edited phrase's, the last the anchor's": torch.cat([edited[:, :-1], anchor[:, -1:]], dim=1),
                    "the anchor's, the last the edited phrase's": torch.cat([anchor[:, :-1], edited[:, -1:]], dim=1),
                }
                for name, embeds in prompts.items():
                    sights = oracle.look(backbone.sample(PromptEmbeds(embeds, None), seeds))
                    shares.setdefault(f"states: {name}", []).append(
                        identity_scores(sights, [concept.thing] * len(sights))[0]
                    )
                cosine = torch.cosine_similarity(edited[0, -1].float(), anchor[0, -1].float(), dim=0)
                shares.setdefault("states: cosine of both last", []).append(float(cosine))
    return {name: mean(values) for name, values in shares.items()}
