"""Finding and loading checkpoints: directories, the hub's cache, and every fault in them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from knowcusbench.encoders.clip import ClipSpec
from knowcusbench.encoders.hps import HpsSpec
from knowcusbench.encoders.segmenters.sam import SamSpec
from knowcusbench.errors import WeightsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline_hub(encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline hub cache that holds the miniature CLIP as tests/clip at one commit."""
    repository = tmp_path / "hub" / "models--tests--clip"
    shutil.copytree(encoders / "clip", repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return repository


@pytest.fixture
def copy(encoders: Path, tmp_path: Path) -> Path:
    """A copy of the miniature CLIP's directory, to be damaged."""
    shutil.copytree(encoders / "clip", tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_hub_id_loads_from_the_cache_and_its_commit_is_recorded(
    offline_hub: Path, revision: str | None, clip: ClipSpec
) -> None:
    spec = replace(clip, source="tests/clip", revision=revision)

    assert spec.weights() == {"tests/clip": f"commit:{COMMIT}"}
    assert torch.equal(spec.load().encode_texts(["a dog"]), clip.load().encode_texts(["a dog"]))


def test_a_pickle_of_the_hub_is_found_and_its_commit_recorded(offline_hub: Path, encoders: Path, hps: HpsSpec) -> None:
    shutil.copy(encoders / "hps" / hps.file, offline_hub / "snapshots" / COMMIT)
    spec = replace(hps, source="tests/clip", revision="main")

    assert spec.weights() == {f"tests/clip/{hps.file}": f"commit:{COMMIT}"}
    assert torch.equal(spec.load().encode_texts(["a dog"]), hps.load().encode_texts(["a dog"]))
    with pytest.raises(WeightsError, match=r"tests/clip: has no file 'HPS_v3\.pt'"):
        replace(spec, file="HPS_v3.pt").load()


@pytest.mark.parametrize(
    ("source", "revision", "words"),
    [
        ("tests/other", None, "tests/other at revision main: not in the local hub cache"),
        ("tests/clip", "v2", "tests/clip at revision v2: not in the local hub cache"),
        ("/no/such/directory", None, "/no/such/directory: no such directory"),
        ("relative/no/directory", None, "relative/no/directory: no such directory"),
        ("tests/..clip", None, "tests/..clip at revision main: "),
    ],
)
def test_a_source_that_can_not_be_had_is_one_line(
    offline_hub: Path, source: str, revision: str | None, words: str
) -> None:
    with pytest.raises(WeightsError) as caught:
        ClipSpec(source=source, revision=revision, device="cpu").load()
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_are_not_replaced_by_random_ones(copy: Path) -> None:
    (copy / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=str(copy)):
        ClipSpec(source=str(copy), device="cpu").load()


def test_a_truncated_weight_file_is_named(copy: Path) -> None:
    file = copy / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=str(copy)):
        ClipSpec(source=str(copy), device="cpu").load()


def test_weights_of_another_shape_are_named(copy: Path) -> None:
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 32
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=str(copy)):
        ClipSpec(source=str(copy), device="cpu").load()


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_configuration_that_makes_no_sense_is_named(copy: Path, text: str) -> None:
    (copy / "open_clip_config.json").write_text(text)
    with pytest.raises(WeightsError, match=str(copy)):
        ClipSpec(source=str(copy), device="cpu").load()


def test_a_directory_of_another_model_is_named(encoders: Path, segmenter: SamSpec) -> None:
    with pytest.raises(WeightsError, match=str(encoders / "clip")):
        replace(segmenter, source=str(encoders / "clip")).load()


def test_the_version_of_a_directory_changes_with_any_weight(copy: Path, clip: ClipSpec) -> None:
    spec = ClipSpec(source=str(copy), device="cpu")
    before = spec.weights()[str(copy)]
    weights = load_file(copy / "open_clip_model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, copy / "open_clip_model.safetensors", metadata={"format": "pt"})

    assert before == clip.weights()[clip.source]
    assert before.startswith("sha256:")
    assert spec.weights()[str(copy)] != before


def test_equal_specifications_share_one_encoder(clip: ClipSpec, segmenter: SamSpec) -> None:
    assert replace(clip).load() is clip.load()
    assert replace(segmenter).load() is segmenter.load()
    assert replace(clip, batch_size=9).load() is not clip.load()


def test_loading_leaves_the_global_random_state_alone(
    clip: ClipSpec, segmenter: SamSpec, preference: object, dino: object, hps: object, siglip: object
) -> None:
    before = torch.get_rng_state()

    for spec in (clip, segmenter, preference, dino, hps, siglip):
        replace(spec, batch_size=8).load()

    assert torch.equal(torch.get_rng_state(), before)
