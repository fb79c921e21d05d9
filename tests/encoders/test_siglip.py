"""SigLIP against transformers' own logits, with pixels from Pillow and hand-made token ids."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.clip_twin import Features, unit
from encoders.small_checkpoints import siglip_model, write_siglip_processor
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoProcessor, SiglipConfig, SiglipModel

from knowcusbench.encoders.siglip import SiglipSpec
from knowcusbench.errors import MetricError, WeightsError
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.siglip_t import SiglipT

TEXTS = ["a photo of a dog", "A Photo of a DOG!", "a toy duck with a hat, 3 times", "Ünknown wörds", "", "dog " * 90]


@pytest.fixture
def copy(siglip: SiglipSpec, tmp_path: Path) -> Path:
    """A copy of the checkpoint's directory, to be changed."""
    shutil.copytree(siglip.source, tmp_path / "copy")
    return tmp_path / "copy"


def prepared(image: Image.Image, resample: Image.Resampling = Image.Resampling.BILINEAR) -> NDArray[np.float64]:
    """Return pixels (3, 56, 56), -1 to 1, squeezed to a square."""
    return (np.asarray(image.resize((56, 56), resample)) / 127.5 - 1).transpose(2, 0, 1)


def token_ids(directory: Path, texts: list[str]) -> torch.Tensor:
    """Return lower-cased token ids: 63 at most, the end token (1), and padding (0) to 64."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    rows = [[*tokenizer.encode(text.lower(), add_special_tokens=False).ids[:63], 1] for text in texts]
    return torch.tensor([row + [0] * (64 - len(row)) for row in rows])


def test_pixels_are_those_of_pillow(siglip: SiglipSpec, dogs: list[Path]) -> None:
    encoder = siglip.load()
    for box in ((0, 0, 256, 256), (10, 0, 250, 155), (0, 0, 40, 31)):
        image = Image.open(dogs[0]).crop(box)
        np.testing.assert_allclose(encoder.preprocess(image).numpy(), prepared(image), atol=1e-5)


@torch.no_grad()
def test_embeddings_are_those_of_the_model_for_hand_made_inputs(siglip: SiglipSpec, dogs: list[Path]) -> None:
    directory = Path(siglip.source)
    model = SiglipModel.from_pretrained(directory).eval()
    images = [Image.open(path) for path in dogs]
    pixels = torch.from_numpy(np.stack([prepared(image) for image in images])).float()

    encoder = siglip.load()

    expected = unit(model.get_image_features(pixels).pooler_output)
    np.testing.assert_allclose(encoder.encode_images(images).numpy(), expected, atol=1e-5)
    expected = unit(model.get_text_features(token_ids(directory, TEXTS)).pooler_output)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS).numpy(), expected, atol=1e-5)
    assert expected.std(axis=0).max() > 1e-2


@torch.no_grad()
def test_a_score_is_the_logit_before_scale_and_bias(siglip: SiglipSpec, dogs: list[Path], ducks: list[Path]) -> None:
    images = [*dogs, *ducks]
    texts = [f"a dog{' with a hat' * n}" for n in range(len(images))]
    items = [
        ScoreItem(str(n), image, (), text, "dog") for n, (image, text) in enumerate(zip(images, texts, strict=True))
    ]

    scores = SiglipT(encoder=siglip).score(items)

    model = SiglipModel.from_pretrained(siglip.source).double().eval()
    pixels = torch.from_numpy(np.stack([prepared(Image.open(path)) for path in images]))
    outputs = model(input_ids=token_ids(Path(siglip.source), texts), pixel_values=pixels)
    cosines = (outputs.logits_per_image.diagonal() - model.logit_bias) / model.logit_scale.exp()
    np.testing.assert_allclose([score.value for score in scores], cosines.numpy(), atol=1e-5)
    assert np.ptp(cosines.numpy()) > 1e-2
    assert (model.logit_scale.exp() > 100) & (model.logit_bias < -12)  # neither is part of the score


def test_a_text_of_more_than_64_tokens_is_noted(siglip: SiglipSpec, dogs: list[Path]) -> None:
    tokenizer = Tokenizer.from_file(f"{siglip.source}/tokenizer.json")
    fits, too_long = "q" * 63, "q" * 64
    assert [len(tokenizer.encode(text).ids) for text in (fits, too_long)] == [64, 65]
    items = [ScoreItem("s", dogs[0], (), text, "dog") for text in (fits, too_long)]
    whole, cut = SiglipT(encoder=siglip).score(items)
    assert (whole.note, cut.note) == ("", "text truncated to 64 tokens")
    assert cut.value == pytest.approx(whole.value, abs=1e-6)


@torch.no_grad()
def test_the_first_siglip_drops_punctuation_and_pads_with_its_end_token(dogs: list[Path], tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    vocabulary = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a photo of a dog on the beach", "a toy duck with a hat"] * 20),
        model_writer=vocabulary,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        minloglevel=2,
    )
    (tmp_path / "spiece.model").write_bytes(vocabulary.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    model = siglip_model(len(pieces)).eval()
    model.save_pretrained(tmp_path)
    tokens = {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    write_siglip_processor(tmp_path, 3, tokens)

    encoder = SiglipSpec(source=str(tmp_path), device="cpu").load()

    rows = [[*pieces.encode(text), 1] for text in ("a photo of a dog", "a toy duck with a hat")]
    ids = torch.tensor([row + [1] * (64 - len(row)) for row in rows])
    expected: Features = unit(model.get_text_features(ids).pooler_output)
    found = encoder.encode_texts(["A photo, of a dog!", "a toy duck (with a hat)"])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    difference = encoder.preprocess(Image.open(dogs[0])).numpy() - prepared(
        Image.open(dogs[0]), Image.Resampling.BICUBIC
    )
    assert np.abs(difference).max() < 1.01 / 127.5


def test_a_missing_package_is_named_with_its_remedy(
    copy: Path, siglip: SiglipSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("\nSiglipTokenizer requires the SentencePiece library but it was not found.\nCheck out")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", missing)
    with pytest.raises(
        WeightsError, match=r"copy: SiglipTokenizer .* not found\. \(pip install sentencepiece protobuf\)"
    ):
        replace(siglip, source=str(copy)).load()


def test_the_published_shapes_have_their_parameters() -> None:
    """0.878 billion parameters, and 1.136 with SigLIP 2's vocabulary, as the hub lists
    google/siglip*-so400m-patch14-384."""
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    counts = []
    for vocabulary in (32_000, 256_000):
        text = tower | {"vocab_size": vocabulary, "projection_size": 1152}
        config = SiglipConfig(text_config=text, vision_config=tower | {"image_size": 384, "patch_size": 14})
        with torch.device("meta"):
            counts.append(sum(parameter.numel() for parameter in SiglipModel(config).parameters()))
    assert counts == [877_960_498, 1_136_008_498]


def test_another_model_is_named(siglip: SiglipSpec, copy: Path, encoders: Path) -> None:
    with pytest.raises(WeightsError, match=r"pickscore: holds a model of type clip, expected siglip"):
        replace(siglip, source=str(encoders / "pickscore")).load()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "siglip2"}))
    with pytest.raises(WeightsError, match=r"copy: holds a model of type siglip2, expected siglip"):
        replace(siglip, source=str(copy)).load()


def test_a_checkpoint_without_a_tokenizer_is_named(siglip: SiglipSpec, copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(WeightsError, match=str(copy)) as caught:
        replace(siglip, source=str(copy)).load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_embedding_without_a_direction_names_the_sample(
    value: float, siglip: SiglipSpec, copy: Path, dogs: list[Path]
) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["text_model.head.weight"].fill_(value)
    weights["text_model.head.bias"].zero_()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MetricError, match=r"SigLIP-T of sample s7 .*is nan"):
        SiglipT(encoder=replace(siglip, source=str(copy))).score([ScoreItem("s7", dogs[0], (), "a dog", "dog")])
