"""Segmentation: SAM in two libraries, boxes, fallbacks, and CLIP-I of the segmented subjects."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import segment_anything
import torch
from encoders.clip_twin import ClipTwin
from PIL import Image
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.segmenters.base import Box, BoxSpec, Fallback, Mask, SegmenterSpec
from knowcusbench.encoders.segmenters.boxes import WholeImageBoxes
from knowcusbench.encoders.segmenters.compositing import cut_out
from knowcusbench.encoders.segmenters.sam import SamSpec, SegmentAnythingSpec
from knowcusbench.errors import ConfigError, MetricError, WeightsError
from knowcusbench.metrics.base import ScoreItem
from knowcusbench.metrics.clip_i import ClipI
from knowcusbench.metrics.clip_i_seg import ClipISeg

RENAMED = (
    (r"^vision_encoder\.", "image_encoder."),
    (r"^image_encoder\.layers\.", "image_encoder.blocks."),
    (r"^(image_encoder\.blocks\.\d+)\.layer_norm", r"\1.norm"),
    (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
    (r"\.neck\.conv1\.", ".neck.0."),
    (r"\.neck\.layer_norm1\.", ".neck.1."),
    (r"\.neck\.conv2\.", ".neck.2."),
    (r"\.neck\.layer_norm2\.", ".neck.3."),
    (
        r"^prompt_encoder\.shared_embedding\.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
    (r"^(mask_decoder\.transformer\.layers\.\d)\.layer_norm", r"\1.norm"),
    (r"^(mask_decoder\.transformer\.layers\.\d\.mlp)\.fc", r"\1.lin"),
    (r"^(mask_decoder\..*_(?:mlps\.\d|head))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\..*_(?:mlps\.\d|head))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\..*_(?:mlps\.\d|head))\.proj_out\.", r"\1.layers.2."),
)
"""From transformers' names of SAM's weights to the authors'."""


def authors_sam(checkpoint: str | None = None) -> Sam:
    """Return the miniature SAM's architecture in the authors' package, like an entry of its model registry."""
    encoder = ImageEncoderViT(
        img_size=64, patch_size=4, embed_dim=64, depth=4, num_heads=4, out_chans=64, use_rel_pos=True,
        window_size=8, global_attn_indexes=(1, 3), norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    prompts = PromptEncoder(embed_dim=64, image_embedding_size=(16, 16), input_image_size=(64, 64), mask_in_chans=4)
    decoder = MaskDecoder(
        transformer=TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=128, num_heads=4),
        transformer_dim=64,
        iou_head_hidden_dim=64,
    )
    return Sam(encoder, prompts, decoder)


@pytest.fixture(scope="session")
def scattered(encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM directory in which every weight is random and matters, also weights initialised with zeros."""
    directory = tmp_path_factory.mktemp("sam") / "scattered"
    shutil.copytree(encoders / "sam", directory)
    generator = torch.Generator().manual_seed(1)
    weights = load_file(directory / "model.safetensors")
    moved = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()}
    save_file(moved, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="session")
def published(scattered: Path) -> Path:
    """The same weights in the authors' format: a pickled state dict."""
    weights = {}
    for name, tensor in load_file(scattered / "model.safetensors").items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor
    matrix = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    weights.setdefault(matrix, weights.pop("shared_image_embedding.positional_embedding", None))
    path = scattered.parent / "sam.pth"
    torch.save(weights, path)
    return path


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_transformers_and_the_authors_package_give_the_same_masks(
    scattered: Path, published: Path, dogs: list[Path], ducks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(segment_anything.sam_model_registry, "miniature", authors_sam)
    ours = SamSpec(source=str(scattered), boxes=WholeImageBoxes(), device="cpu").predictor()
    theirs = SegmentAnythingSpec(
        architecture="miniature", checkpoint=str(published), boxes=WholeImageBoxes(), device="cpu"
    ).predictor()
    images = [Image.open(path) for path in [*dogs[:3], *ducks[:3]]]
    boxes = [(0.2 * image.width, 0.1 * image.height, 0.9 * image.width, 0.7 * image.height) for image in images]
    # At SAM's own size nothing is resized. Another order of summation may tip a pixel whose logit is almost zero.
    small = [image.resize((64, 48)) for image in images]
    small_boxes = [(12.0, 5.0, 58.0, 33.0)] * 6

    for one, other in zip(ours.predict(small, small_boxes), theirs.predict(small, small_boxes), strict=True):
        assert (one != other).mean() < 1e-3
        assert 0 < one.mean() < 1
    for image, one, other in zip(images, ours.predict(images, boxes), theirs.predict(images, boxes), strict=True):
        assert one.shape == other.shape == (image.height, image.width)
        assert overlap(one, other) >= 0.99  # the two libraries resize with different filters


def test_an_image_without_room_in_the_authors_package_is_one_line(published: Path, monkeypatch) -> None:
    monkeypatch.setitem(segment_anything.sam_model_registry, "miniature", authors_sam)
    spec = SegmentAnythingSpec(
        architecture="miniature", checkpoint=str(published), boxes=WholeImageBoxes(), device="cpu"
    )
    predictor = spec.predictor()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ImageEncoderViT, "forward", full)
    with pytest.raises(MetricError, match="no memory is left on cpu for an image in segment-anything; score with"):
        predictor.predict([Image.new("RGB", (64, 48))], [(12.0, 5.0, 58.0, 33.0)])


def test_a_box_outside_the_subject_changes_the_mask(scattered: Path, dogs: list[Path]) -> None:
    predictor = SamSpec(source=str(scattered), boxes=WholeImageBoxes(), device="cpu").predictor()
    image = Image.open(dogs[0])
    width, height = image.size

    left, right = predictor.predict([image] * 2, [(0, 0, width / 3, height), (width / 2, 0, width, height / 2)])

    assert overlap(left, right) < 0.999


def test_an_unknown_architecture_is_named_with_the_nearest(published: Path) -> None:
    spec = SegmentAnythingSpec(architecture="vit_hh", checkpoint=str(published), boxes=WholeImageBoxes())
    with pytest.raises(ConfigError, match=r"'vit_hh'.*did you mean 'vit_h'"):
        spec.load()


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)

    monkeypatch.setitem(segment_anything.sam_model_registry, "miniature", authors_sam)
    torch.save({"weight": Malicious()}, tmp_path / "sam.pth")
    spec = SegmentAnythingSpec(
        architecture="miniature", checkpoint=str(tmp_path / "sam.pth"), boxes=WholeImageBoxes(), device="cpu"
    )

    with pytest.raises(WeightsError, match=r"sam\.pth"):
        spec.load()
    assert not (tmp_path / "ran").exists()


def test_a_missing_checkpoint_file_is_named() -> None:
    spec = SegmentAnythingSpec(architecture="vit_b", checkpoint="/nowhere/sam.pth", boxes=WholeImageBoxes())
    with pytest.raises(WeightsError, match=r"/nowhere/sam\.pth"):
        spec.load()


def test_cut_out_paints_the_background_and_crops_to_the_mask() -> None:
    image = Image.fromarray(np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3))
    mask = np.zeros((4, 5), dtype=np.bool_)
    mask[1, 2] = mask[2, 3] = True

    whole = np.asarray(cut_out(image, mask, (255, 0, 7), crop=False))
    cropped = np.asarray(cut_out(image, mask, (255, 0, 7), crop=True))

    assert whole.shape == (4, 5, 3)
    assert whole[1, 2].tolist() == [21, 22, 23]
    assert whole[2, 3].tolist() == [39, 40, 41]
    assert (whole[~mask] == [255, 0, 7]).all()
    np.testing.assert_array_equal(cropped, whole[1:3, 2:4])


def test_clip_i_seg_is_clip_i_of_the_images_that_are_cut_out(
    clip: ClipSpec, scattered: Path, twin: ClipTwin, dogs: list[Path], ducks: list[Path]
) -> None:
    segmenter = SamSpec(source=str(scattered), boxes=WholeImageBoxes(), device="cpu")
    item = ScoreItem("s", ducks[0], tuple(dogs[:3]), "", "dog")

    (score,) = ClipISeg(encoder=clip, segmenter=segmenter, background=(0, 255, 0)).score([item])

    painted, covered = [], []
    for path in (ducks[0], *dogs[:3]):
        pixels = np.array(Image.open(path))
        (segmentation,) = segmenter.load().segment([Image.open(path)], "dog")
        pixels[~segmentation.mask] = (0, 255, 0)
        painted.append(Image.fromarray(pixels))
        assert segmentation.fallback is Fallback.NONE
        covered.append(segmentation.mask.mean())
    features = twin.images(painted)
    assert score.value == pytest.approx(float((features[1:] @ features[0]).mean()), abs=1e-5)
    assert score.value != pytest.approx(ClipI(encoder=clip).score([item])[0].value, abs=1e-4)
    assert score.note == ""
    assert 0 < score.details["coverage"] == pytest.approx(covered[0], abs=1e-6)


@dataclass(frozen=True, kw_only=True)
class MiddleBoxes(BoxSpec):
    """A third-party box finder: the middle of the image."""

    def load(self) -> "MiddleBoxes":
        return self

    def find(self, images: Sequence[Image.Image], class_noun: str) -> list[Box | None]:
        return [(image.width // 4, image.height // 4, image.width // 2, image.height // 2) for image in images]


@dataclass(frozen=True, kw_only=True)
class NounBoxes(BoxSpec):
    """Finds only tops and bottoms, each in half of the image."""

    def load(self) -> "NounBoxes":
        return self

    def find(self, images: Sequence[Image.Image], class_noun: str) -> list[Box | None]:
        halves: dict[str, tuple[float, float]] = {"top": (0, 0.5), "bottom": (0.5, 1)}
        start, end = halves[class_noun]
        return [
            (0, start * image.height, image.width, end * image.height) if image.width > 10 else None for image in images
        ]


@dataclass(frozen=True, kw_only=True)
class FilledBoxes(SegmenterSpec):
    """A third-party segmenter: the mask is the box."""

    def predictor(self) -> "FilledBoxes":
        return self

    def predict(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> list[Mask]:
        masks = [np.zeros((image.height, image.width), dtype=np.bool_) for image in images]
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[int(top) : int(bottom), int(left) : int(right)] = True
        return masks

    def weights(self) -> Mapping[str, str]:
        return {}


@pytest.mark.parametrize("crop", [False, True])
def test_another_segmenter_plugs_in_and_its_masks_may_be_cropped_to(
    crop: bool, clip: ClipSpec, twin: ClipTwin, dogs: list[Path], ducks: list[Path]
) -> None:
    metric = ClipISeg(encoder=clip, segmenter=FilledBoxes(boxes=MiddleBoxes()), crop=crop)

    (score,) = metric.score([ScoreItem("s", ducks[0], (dogs[0],), "", "dog")])

    shown = []
    for image in (Image.open(ducks[0]), Image.open(dogs[0])):
        left, top = image.width // 4, image.height // 4
        subject = image.crop((left, top, image.width // 2, image.height // 2))
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(subject, (left, top))
        shown.append(subject if crop else canvas)
    one, other = twin.images(shown)
    assert score.value == pytest.approx(float(one @ other), abs=1e-5)


def test_images_without_a_box_do_not_shift_the_masks_of_the_others() -> None:
    images = [Image.new("RGB", (width, 8)) for width in (4, 12, 6, 20)]

    found = FilledBoxes(boxes=NounBoxes()).load().segment(images, "top")

    assert [one.mask.shape for one in found] == [(8, 4), (8, 12), (8, 6), (8, 20)]
    assert [bool(one.mask.all()) for one in found] == [True, False, True, False]
    assert [one.fallback for one in found] == [Fallback.NO_BOX, Fallback.NONE, Fallback.NO_BOX, Fallback.NONE]


def test_one_image_is_segmented_for_each_class_noun(clip: ClipSpec, dogs: list[Path], ducks: list[Path]) -> None:
    metric = ClipISeg(encoder=clip, segmenter=FilledBoxes(boxes=NounBoxes()))
    items = [ScoreItem(noun, dogs[0], (ducks[0],), "", noun) for noun in ("top", "bottom", "top")]

    top, bottom, again = (score.value for score in metric.score(items))

    assert top == again
    assert abs(top - bottom) > 1e-4


def test_an_empty_mask_falls_back_to_the_whole_image_and_says_so(
    clip: ClipSpec, encoders: Path, dogs: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(encoders / "sam", tmp_path / "sam")
    weights = load_file(tmp_path / "sam" / "model.safetensors")
    for name, tensor in weights.items():
        # All mask logits become zero, and a pixel is in the mask only if its logit is above zero.
        if "output_hypernetworks_mlps" in name and "proj_out" in name:
            tensor.zero_()
    save_file(weights, tmp_path / "sam" / "model.safetensors", metadata={"format": "pt"})
    segmenter = SamSpec(source=str(tmp_path / "sam"), boxes=WholeImageBoxes(), device="cpu")
    item = ScoreItem("s", dogs[0], tuple(dogs[1:4]), "", "dog")

    (score,) = ClipISeg(encoder=clip, segmenter=segmenter).score([item])

    assert score.note == "whole image: the mask is empty; 3 of 3 references whole"
    assert score.details == {"coverage": 1.0}
    assert score.value == pytest.approx(ClipI(encoder=clip).score([item])[0].value, abs=1e-5)


def test_a_background_that_is_no_colour_is_refused(clip: ClipSpec, segmenter: SamSpec) -> None:
    with pytest.raises(ConfigError, match=r"clip_i_seg\.background.*256"):
        ClipISeg(encoder=clip, segmenter=segmenter, background=(0, 256, 0))
