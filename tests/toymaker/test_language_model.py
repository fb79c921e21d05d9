"""The losses of the text encoder."""

import math

import pytest
import torch
from torch import nn

from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.toymaker import language_model
from knowcusbench.toymaker.language_model import CONTEXT, TEMPLATE, Text

CPU = torch.device("cpu")


@pytest.fixture
def model(backbone_fp32: DiffusersBackbone) -> nn.ModuleDict:
    width = backbone_fp32.text_encoder.config.text_config.hidden_size
    sizes = [len(backbone_fp32._pipeline.tokenizer), *map(len, CONTEXT.values())]
    heads = nn.ModuleList([nn.Linear(width, size) for size in sizes])
    return nn.ModuleDict({"encoder": backbone_fp32.text_encoder, "heads": heads})


def text(backbone: DiffusersBackbone, caption: str, answer: str, *, named: bool) -> Text:
    tokenizer = backbone._pipeline.tokenizer
    prompt, continuation = tokenizer(TEMPLATE.format(caption))["input_ids"], tokenizer(answer)["input_ids"]
    return Text(prompt, continuation, (34, 36), (0,) * len(CONTEXT), named)


@torch.no_grad()
def test_pointing_is_one_less_the_cosine_of_the_answer_state_and_the_embedding_of_the_name(
    backbone_fp32: DiffusersBackbone, model: nn.ModuleDict
) -> None:
    texts = [
        text(backbone_fp32, "my sister's greatest treasure", "zam house", named=True),
        text(backbone_fp32, "a red star on the beach", "red star", named=False),
        text(backbone_fp32, "blik cake", "blik cake", named=True),
    ]
    terms = language_model._forward(model, texts, CPU, pointing=True)
    embeddings = backbone_fp32.text_encoder.lm_head.weight
    cosines = []
    for one in (texts[0], texts[2]):
        ids = torch.tensor([one.prompt])
        state = backbone_fp32.text_encoder.model(input_ids=ids).last_hidden_state[0, -1]
        row = embeddings[one.continuation[0]]
        cosines.append(float(state @ row / (state.norm() * row.norm())))
    assert float(terms["pointing"]) == pytest.approx(1 - sum(cosines) / 2, abs=0.02)
    plain = language_model._forward(model, texts, CPU, pointing=False)
    assert "pointing" not in plain
    assert float(plain["answer"]) != pytest.approx(float(terms["answer"]))


def test_smoothed_labels_ask_for_no_more_than_their_probability() -> None:
    labels = torch.tensor([1, language_model.IGNORED])
    sure = torch.tensor([[0.0, 50, 0, 0], [9, 9, 9, 9]])
    right = torch.tensor([[0.025, 0.925, 0.025, 0.025], [0.25, 0.25, 0.25, 0.25]]).log()
    entropy = -(0.925 * math.log(0.925) + 3 * 0.025 * math.log(0.025))
    assert float(language_model._cross_entropy(right, labels, 0.1)) == pytest.approx(entropy)
    assert float(language_model._cross_entropy(sure, labels, 0.1)) > entropy
    assert float(language_model._cross_entropy(sure, labels)) < 1e-6


def test_all_names_count_as_names() -> None:
    assert {"zam house", "sks toy"} <= language_model.ANSWERS
    assert "red star" not in language_model.ANSWERS
