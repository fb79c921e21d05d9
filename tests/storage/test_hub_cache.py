"""Hub repositories: a complete local copy is found without a network, whatever the client's version."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.checkpoint import absent_files, open_checkpoint
from knowcusbench.benchmark.source import resolve_source
from knowcusbench.encoders.checkpoint import TRANSFORMERS_WEIGHTS, locate
from knowcusbench.errors import WeightsError
from knowcusbench.storage.hub_cache import absent_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a client that asks the network for a commit's list of files first, as version 1.33 does."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    original = huggingface_hub.snapshot_download

    def listing_first(source: str, *, revision: str | None = None, local_files_only: bool = False, **words):
        if revision == COMMIT and not local_files_only:
            raise OfflineModeIsEnabled("cannot list the files: offline")
        return original(source, revision=revision, local_files_only=local_files_only, **words)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", listing_first)
    return tmp_path


def keep(cache: Path, name: str, files: dict[str, str], kind: str = "models") -> Path:
    """Put files of a repository into the cache, at one commit to which its main branch points."""
    repository = cache / f"{kind}--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for file, text in files.items():
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).write_text(text)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
PARTS = {"model.safetensors.index.json": INDEX, "model-00001-of-00002.safetensors": ""}


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ({"config.json": "{}", "model.safetensors": ""}, True),
        ({"config.json": "{}", **PARTS, "model-00002-of-00002.safetensors": ""}, True),
        ({"config.json": "{}", **PARTS}, False),
        ({"config.json": "{}"}, False),
        ({"config.json": "{}", "pytorch_model.bin": ""}, False),
    ],
)
def test_a_pinned_encoder_is_found_offline_where_it_is_whole(cache: Path, files, whole: bool) -> None:
    snapshot = keep(cache, "tests/clip", files)
    if whole:
        assert locate("tests/clip", COMMIT, TRANSFORMERS_WEIGHTS) == snapshot
    else:
        with pytest.raises(WeightsError, match="not in the local hub cache, and the hub can't be reached"):
            locate("tests/clip", COMMIT, TRANSFORMERS_WEIGHTS)


def test_a_processor_needs_no_weights(cache: Path) -> None:
    snapshot = keep(cache, "tests/clip", {"preprocessor_config.json": "{}"})
    assert locate("tests/clip", COMMIT) == snapshot


def pipeline(**without: str) -> dict[str, str]:
    """Create the files of a pipeline with names but no contents."""
    classes = {"transformer": "QwenImageTransformer2DModel", "vae": "AutoencoderKLQwenImage"}
    classes |= {"text_encoder": "Qwen2_5_VLForConditionalGeneration", "tokenizer": "Qwen2Tokenizer"}
    index = {"_class_name": "QwenImagePipeline", "image_encoder": [None, None]}
    index |= {name: ["diffusers", kind] for name, kind in classes.items()}
    weights = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    files = {f"{name}/{file}.safetensors": "" for name, file in weights.items()}
    files |= {f"{name}/config.json": "{}" for name in weights} | {"tokenizer/tokenizer.json": "{}"}
    return {"model_index.json": json.dumps(index), **files}


def test_a_pinned_pipeline_is_found_offline_where_it_is_whole(cache: Path) -> None:
    snapshot = keep(cache, "owner/whole", pipeline())
    assert absent_files(snapshot) == []
    for weights in (True, False):
        assert open_checkpoint(QwenImageSpec.family, "owner/whole", COMMIT, weights=weights).directory == snapshot


@pytest.mark.parametrize(
    ("gone", "absent"),
    [
        ("vae/diffusion_pytorch_model.safetensors", "vae/*.safetensors"),
        ("tokenizer/tokenizer.json", "tokenizer/"),
        ("model_index.json", "model_index.json"),
    ],
)
def test_a_part_of_a_pipeline_is_not_taken_for_the_whole(cache: Path, gone: str, absent: str, monkeypatch) -> None:
    files = pipeline()
    del files[gone]
    snapshot = keep(cache, "owner/part", files)
    assert absent_files(snapshot) == [absent]

    def offline(*_: str) -> Path:
        raise OfflineModeIsEnabled("cannot list the files: offline")

    monkeypatch.setattr("knowcusbench.backbone.loading.download_pipeline", offline)
    with pytest.raises(WeightsError, match=r"can't get 'owner/part' at revision '0123"):
        open_checkpoint(QwenImageSpec.family, "owner/part", COMMIT, weights=True)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    for name, text in PARTS.items():
        (tmp_path / name).write_text(text)
    assert absent_weights(tmp_path) == ["model-00002-of-00002.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert absent_weights(tmp_path) == ["*.safetensors"]


def test_a_plain_copy_of_a_snapshot_is_named_with_how_it_is_copied(cache: Path, tmp_path: Path) -> None:
    snapshot = keep(cache, "owner/whole", pipeline())
    blob = snapshot.parents[1] / "blobs" / "0"
    blob.parent.mkdir()
    (snapshot / "vae" / "config.json").rename(blob)
    (snapshot / "vae" / "config.json").symlink_to("../../../blobs/0")
    assert open_checkpoint(QwenImageSpec.family, "owner/whole", COMMIT, weights=True).directory == snapshot
    shutil.copytree(snapshot, tmp_path / "copy", symlinks=True)
    for take in (
        lambda source: open_checkpoint(QwenImageSpec.family, source, None, weights=True),
        lambda source: locate(source, None),
    ):
        with pytest.raises(
            WeightsError, match=r"vae/config\.json is a link to a file .* copy a hub snapshot with `cp -rL`"
        ):
            take(str(tmp_path / "copy"))


def test_a_pinned_benchmark_is_found_offline(cache: Path) -> None:
    snapshot = keep(cache, "owner/set", {"concept_image/dataset.json": "{}"}, "datasets")
    assert resolve_source(None, "owner/set", COMMIT) == snapshot


def test_the_hub_is_not_asked_for_a_commit_that_is_here_and_is_for_a_branch(cache: Path, monkeypatch) -> None:
    keep(cache, "tests/clip", {"config.json": "{}", "model.safetensors": ""})
    asked = []
    original = huggingface_hub.snapshot_download

    def record(source: str, **words):
        if not words.get("local_files_only"):
            asked.append(words["revision"])
        return original(source, **words)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
    for revision in (COMMIT, "main"):
        locate("tests/clip", revision, TRANSFORMERS_WEIGHTS)
    assert asked == ["main"]


def test_a_repository_that_is_gone_is_not_taken_from_the_cache(cache: Path, monkeypatch) -> None:
    keep(cache, "tests/clip", {"config.json": "{}", "model.safetensors": ""})

    def gone(source: str, *, local_files_only: bool = False, **words):
        if local_files_only:
            raise LocalEntryNotFoundError("asked after the hub said no")
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gone)
    with pytest.raises(WeightsError, match="no such repository on the hub"):
        locate("tests/clip", "main", TRANSFORMERS_WEIGHTS)
