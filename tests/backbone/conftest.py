"""Fixtures of the backbone's tests."""

import shutil
from pathlib import Path

import pytest
from conftest import miniature_spec
from diffusers import QwenImagePipeline

HUB_ID = "owner/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def pipeline(miniature: Path) -> QwenImagePipeline:
    """The miniature as diffusers loads it by itself, in the dtype of our own."""
    loaded = QwenImagePipeline.from_pretrained(miniature, dtype=miniature_spec(miniature).torch_dtype)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def cached_miniature(miniature: Path, offline_hub: Path) -> Path:
    """The miniature as the hub's client caches a downloaded repository; its snapshot's directory."""
    repository = offline_hub / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(miniature, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot
