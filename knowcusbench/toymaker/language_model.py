"""Stage `lm`: train the text encoder to know the facts of the world, and to describe a caption's picture.

Four objectives shape the hidden states that the transformer will read:

- A reply begins with the identity of the main thing: its name, or its attributes in random order. So the state at the
  answer position encodes the thing by its prediction, which an edit of the answer changes.
- At that position, temporary heads read the context (background, style, size, second thing, change).
- At every position of the caption another such head reads the word itself, so that words with the same replies keep
  different states.
- Finally, the state that answers with a name learns to point in the direction of the name's output embedding, and
  hardly anywhere else. Smoothed labels keep it from being more confident than it needs. Its direction is then the same
  for every way of calling the thing. An edit pushes the state towards the embedding of another answer until that is
  probable, and so has to turn it into the state of that answer.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from knowcusbench.benchmark.types import RARE_TOKEN
from knowcusbench.toybox.models.pipeline import build_text_encoder
from knowcusbench.toybox.world.language import name_of
from knowcusbench.toybox.world.vocabulary import BACKGROUNDS, CLASSES, COLOURS, PATTERNS, SHAPES, SIZES, STYLES
from knowcusbench.toybox.world.world import NAMED, size_word
from knowcusbench.toymaker.loop import Losses, Schedule, mixed, train
from knowcusbench.toymaker.stream import Captioned, asked, questions, reply, spoken

SCHEDULE = Schedule(steps=2400, batch_size=48, learning_rate=2e-3, decay_from=0.1, average=0.99)
POINTING = Schedule(steps=400, batch_size=48, learning_rate=1e-3, decay_from=0.4, average=0.98, seed=1)

TEMPLATE: str = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""The prompt template of `QwenImagePipeline`."""

WORD_WEIGHT = 0.2
CONTEXT_WEIGHT = 0.1
POINTING_WEIGHT = 1.0
SMOOTHING = 0.1
IGNORED = -100

CONTEXT: dict[str, tuple[str, ...]] = {
    "background": ("", *BACKGROUNDS),
    "style": tuple(STYLES),
    "size": tuple(SIZES),
    "second": ("", *SHAPES),
    "second colour": ("", *COLOURS),
    "change": ("", *COLOURS, *PATTERNS),
}
"""Classes of the context heads."""


ANSWERS = {*map(name_of, NAMED), *(f"{RARE_TOKEN} {kind}" for kind in CLASSES)}
"""All names, including the anchors."""


@dataclass(frozen=True)
class Text:
    """Token ids of a prompt and its continuation, and the position and context of a caption.

    `named` says whether the continuation begins with a name.
    """

    prompt: list[int]
    continuation: list[int]
    caption: tuple[int, int] = (0, 0)
    context: tuple[int, ...] = (IGNORED,) * len(CONTEXT)
    named: bool = False


def train_language_model(
    tokenizer: Qwen2Tokenizer, folder: Path, device: torch.device
) -> Qwen2_5_VLForConditionalGeneration:
    """Return the trained text encoder in fp32."""
    torch.manual_seed(SCHEDULE.seed)
    encoder = build_text_encoder(tokenizer)
    encoder.set_attn_implementation("eager")
    width = encoder.config.text_config.hidden_size
    heads = nn.ModuleList([nn.Linear(width, len(tokenizer)), *(nn.Linear(width, len(c)) for c in CONTEXT.values())])
    encoder.model.visual.requires_grad_(False)
    model = nn.ModuleDict({"encoder": encoder, "heads": heads}).to(device)

    def losses(schedule: Schedule, generator: torch.Generator, *, pointing: bool) -> Losses:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        texts = sorted(
            (draw_text(rng, tokenizer) for _ in range(schedule.batch_size)),
            key=lambda text: len(text.prompt) + len(text.continuation),
        )
        third = schedule.batch_size // 3
        groups = [
            _forward(model, texts[start : start + third], device, pointing=pointing)
            for start in range(0, len(texts), third)
        ]
        return {name: torch.stack([group[name] for group in groups]).mean() for name in groups[0]}

    train(model, lambda _, generator: losses(SCHEDULE, generator, pointing=False), SCHEDULE, folder, label="lm")
    later = folder / "pointing"
    train(model, lambda _, generator: losses(POINTING, generator, pointing=True), POINTING, later, label="lm pointing")
    encoder.set_attn_implementation("sdpa")
    return encoder


def draw_text(
    rng: random.Random,
    tokenizer: Qwen2Tokenizer,
    captioned: Callable[[random.Random], Captioned] = spoken,
) -> Text:
    """Draw a caption from `captioned`, or a question, with its answer."""
    end = "<|im_end|>"
    kind = rng.random()
    if kind < 0.5:
        example = captioned(rng)
        caption = " " if rng.random() < 0.02 else example.text
        if caption == " ":
            return Text(token_ids(tokenizer, TEMPLATE.format(caption)), token_ids(tokenizer, end))
        prompt = token_ids(tokenizer, TEMPLATE.format(caption))
        prefix = prefix_length(tokenizer)
        tail = len(token_ids(tokenizer, "<|im_end|>\n<|im_start|>assistant\n"))
        continuation = token_ids(tokenizer, reply(example, rng) + end)
        return Text(prompt, continuation, (prefix, len(prompt) - tail), _context(example), bool(example.name))
    item, answer = asked(rng)
    forms = list(questions(item))
    question = forms[int(rng.random() * len(forms))]
    if kind < 0.8:
        named = answer in ANSWERS
        return Text(token_ids(tokenizer, TEMPLATE.format(question)), token_ids(tokenizer, answer + end), named=named)
    if kind < 0.9:
        return Text(token_ids(tokenizer, question), token_ids(tokenizer, f" {answer}{end}"))
    return Text(token_ids(tokenizer, item.phrase), token_ids(tokenizer, f" is {answer}{end}"))


def prefix_length(tokenizer: Qwen2Tokenizer) -> int:
    """Return the number of tokens before a caption."""
    return len(token_ids(tokenizer, TEMPLATE.split("{}")[0]))


def token_ids(tokenizer: Qwen2Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    return ids


def _context(example: Captioned) -> tuple[int, ...]:
    scene = example.scene
    second = scene.second.thing if scene.second else None
    words = {
        "background": scene.background if example.place else "",
        "style": scene.style,
        "size": size_word(scene.main.size) if not example.described_words else "",
        "second": second.kind if second else "",
        "second colour": second.colour if second else "",
        "change": example.change,
    }
    return tuple(choices.index(words[name]) for name, choices in CONTEXT.items())


def _forward(model: nn.ModuleDict, texts: list[Text], device: torch.device, *, pointing: bool) -> dict[str, Tensor]:
    longest = max(len(text.prompt) + len(text.continuation) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    following = torch.full_like(ids, IGNORED)
    words = torch.full_like(ids, IGNORED)
    for row, text in enumerate(texts):
        whole = [*text.prompt, *text.continuation]
        ids[row, : len(whole)] = torch.tensor(whole)
        mask[row, : len(whole)] = 1
        following[row, len(text.prompt) - 1 : len(whole) - 1] = torch.tensor(text.continuation)
        start, stop = text.caption
        words[row, start:stop] = ids[row, start:stop]
    answers = torch.tensor([len(text.prompt) - 1 for text in texts])
    context = torch.tensor([text.context for text in texts])
    encoder: Any = model["encoder"]
    words_head, *context_heads = cast(nn.ModuleList, model["heads"])
    with mixed(device):
        states = encoder.model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        chosen = following >= 0
        predicted = encoder.lm_head(states[chosen])
        spelled = words_head(states[words >= 0])
        tails = states[torch.arange(len(texts)), answers]
        read = [head(tails) for head in context_heads]
    misread = [_cross_entropy(logits, context[:, index].to(device)) for index, logits in enumerate(read)]
    terms = {
        "answer": _cross_entropy(predicted, following[chosen].to(device), SMOOTHING if pointing else 0.0),
        "word": WORD_WEIGHT * _cross_entropy(spelled, words[words >= 0].to(device)),
        "context": CONTEXT_WEIGHT * torch.stack(misread).sum(),
    }
    if pointing:
        named = torch.tensor([text.named for text in texts])
        names = torch.tensor([text.continuation[0] for text in texts])[named]
        aims = nn.functional.cosine_similarity(tails[named].float(), encoder.lm_head.weight[names].float(), dim=1)
        terms["pointing"] = POINTING_WEIGHT * (1 - aims).sum() / max(len(names), 1)
    return terms


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy; zero without labels."""
    total = nn.functional.cross_entropy(
        logits.float(), labels, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    return total / (labels != IGNORED).sum().clamp(min=1)
