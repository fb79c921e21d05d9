"""The miniature encoders' checkpoints."""

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from transformers import CLIPProcessor

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.clip_transformers import TransformersClipSpec
from knowcusbench.toybox.models.clip_transformers import save_clip_transformers
from knowcusbench.toybox.models.encoders import build_clip, build_pickscore, build_sam, sam_model

pytestmark = pytest.mark.model

BUILDERS = {"clip": build_clip, "pickscore": build_pickscore, "sam": build_sam}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two builds of everything, from different states of the global generator."""
    roots = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for root in roots:
        torch.rand(7)
        for name, build in BUILDERS.items():
            build(root / name)
    return roots


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_build_gives_the_same_bytes_and_few_of_them(built: tuple[Path, Path]) -> None:
    one, other = (files(root) for root in built)
    assert one == other
    assert sum(map(len, one.values())) < 10e6


def test_building_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for name, build in BUILDERS.items():
        build(tmp_path / name)
    assert torch.equal(torch.get_rng_state(), before)


def test_pickscores_tokenizer_spells_every_text_and_agrees_with_clips_where_it_has_the_merges(
    built: tuple[Path, Path],
) -> None:
    ours = CLIPProcessor.from_pretrained(built[0] / "pickscore").tokenizer
    clips = open_clip.SimpleTokenizer()

    ids = ours("a photo of a dog at the end").input_ids
    assert ours.convert_ids_to_tokens(ids)[1:-1] == [
        clips.decoder[index] for index in clips.encode("a photo of a dog at the end")
    ]
    odd = "Zürich — naïve 犬 🐕"
    assert ours.unk_token_id not in ours(odd).input_ids[1:-1]
    assert ours.decode(ours(odd).input_ids, skip_special_tokens=True).replace(" ", "") == odd.lower().replace(" ", "")


def test_sam_takes_prompts_a_pixel_apart_for_alike() -> None:
    model = sam_model()
    corners = torch.tensor([[[20.0, 20.0]], [[21.0, 20.0]], [[40.0, 20.0]]])
    here, beside, far = model.shared_image_embedding(corners[None], (64, 64))[0, :, 0].detach()
    assert torch.cosine_similarity(here, beside, dim=0) > 0.9
    assert torch.cosine_similarity(here, far, dim=0) < 0.6


def test_the_clip_in_transformers_form_embeds_as_the_one_it_was_converted_from(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    save_clip_transformers(built[0] / "clip", tmp_path / "clip")
    ours = TransformersClipSpec(source=str(tmp_path / "clip"), device="cpu").load()
    theirs = ClipSpec(source=str(built[0] / "clip"), device="cpu").load()
    texts = ["a red car", "Bela's birthday gift", "an ordinary sentence, with Ünïcode", "dog " * 90]
    assert torch.allclose(ours.encode_texts(texts), theirs.encode_texts(texts), atol=1e-5)
    assert [ours.truncates(text) for text in texts] == [theirs.truncates(text) for text in texts]
    images = [Image.effect_mandelbrot((90, 70), (-2, -1, 1, 1), 60).convert("RGB"), Image.new("RGB", (64, 64), "red")]
    assert torch.allclose(ours.encode_images(images), theirs.encode_images(images), atol=1e-5)
