"""Prompt embeddings on disk: encoded once, read back through memory maps while images are drawn.

    <directory>/<key>/<place>.safetensors

A key stands for the text encoder as it is adapted; a shard holds the embeddings of up to `SHARD` prompts, named by
their digests, and the prompts themselves. Shards appear whole or not at all and are never changed, so several processes
can share a directory; two that encode the same prompt at once write it twice.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from knowcusbench.adapters.types import Adapter
from knowcusbench.backbone.base import Backbone, PromptEmbeds
from knowcusbench.errors import RunError
from knowcusbench.storage.files import atomic_path

SHARD = 64
"""Prompts in a shard; so many are in memory before they are written (0.5 MB each at full size)."""

TEXT = "prompts"
"""The entry of a shard's metadata with the prompts by digest."""


class PromptStore:
    """Embeddings of prompts under one state of the text encoder.

    Opening it reads the shards' tables of contents; embeddings are read when they are asked for, straight from the
    file's pages, and nothing of them is kept.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self._directory = directory / key
        self._shard_of: dict[str, Path] = {}
        self._known: set[Path] = set()
        self._look()

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """Those that no process has encoded yet, each once, in their order."""
        self._look()
        return [prompt for prompt in dict.fromkeys(prompts) if _name(prompt) not in self._shard_of]

    def fill(self, prompts: Iterable[str], encode: Callable[[str], PromptEmbeds]) -> None:
        """Encode the prompts that are missing, and write them shard by shard."""
        missing = self.missing(prompts)
        for start in range(0, len(missing), SHARD):
            chunk = missing[start : start + SHARD]
            self._write({prompt: encode(prompt) for prompt in chunk})

    def get(self, prompt: str, device: torch.device) -> PromptEmbeds:
        """The embeddings of a prompt, as they were encoded. Raises KeyError for one that was not, and RunError for a
        shard that is damaged."""
        name = _name(prompt)
        path = self._shard_of[name]
        try:
            with safe_open(path, framework="pt", device=str(device)) as shard:
                embeds = shard.get_tensor(name)
                mask = shard.get_tensor(f"{name}.mask") if f"{name}.mask" in shard.keys() else None  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise _damaged(path, error) from error
        return PromptEmbeds(embeds, mask)

    def _look(self) -> None:
        """Take in the shards that have come."""
        for path in sorted(set(self._directory.glob("[!.]*.safetensors")) - self._known):
            try:
                with safe_open(path, framework="pt") as shard:
                    self._add(path, json.loads(shard.metadata()[TEXT]))
            except (OSError, SafetensorError) as error:
                raise _damaged(path, error) from error

    def _write(self, embeds: Mapping[str, PromptEmbeds]) -> None:
        tensors: dict[str, Tensor] = {}
        for prompt, encoded in embeds.items():
            tensors[_name(prompt)] = encoded.embeds.contiguous().cpu()
            if encoded.mask is not None:
                tensors[f"{_name(prompt)}.mask"] = encoded.mask.contiguous().cpu()
        texts = {_name(prompt): prompt for prompt in embeds}
        path = self._directory / f"{uuid4().hex}.safetensors"
        with atomic_path(path) as temporary:
            # Not `save_file`: what a full disk raises there is no OSError.
            temporary.write_bytes(save(tensors, {TEXT: json.dumps(texts, ensure_ascii=False)}))
        self._add(path, texts)

    def _add(self, path: Path, names: Iterable[str]) -> None:
        self._known.add(path)
        for name in names:
            self._shard_of.setdefault(name, path)


def encoded_prompts(
    directory: Path, backbone: Backbone, text_encoder: Adapter | None, prompts: Sequence[str]
) -> Callable[[str], PromptEmbeds]:
    """Embeddings of `prompts` by the backbone as it is adapted now, `text_encoder` being its text encoder's adapter.

    All that are missing in `directory` are encoded first; the transformer then has the device to itself. What is
    returned reads them one by one.
    """
    store = PromptStore(directory, encoder_key(backbone, text_encoder))
    store.fill(prompts, backbone.encode)
    return lambda prompt: store.get(prompt, backbone.device)


def encoder_key(backbone: Backbone, text_encoder: Adapter | None) -> str:
    """Return 32 hex digits over all that decides an embedding: the base weights, what the pipeline makes of a prompt,
    and the text encoder's adapter."""
    digest = hashlib.sha256(f"{backbone.digest} {backbone.device.type}".encode())
    if backbone.encoding:
        digest.update(json.dumps(dict(backbone.encoding), sort_keys=True).encode())
    if text_encoder:
        gate = text_encoder.gate and [
            text_encoder.gate.temperature,
            text_encoder.gate.bias,
            *text_encoder.gate.parts.items(),
        ]
        said = [dict(text_encoder.config), text_encoder.merged, gate]
        digest.update(json.dumps(said, sort_keys=True, default=sorted).encode())
        for name, tensor in sorted(text_encoder.tensors.items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def _name(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]


def _damaged(path: Path, error: Exception) -> RunError:
    return RunError(f"{path} is damaged ({error}); remove it and run the command again")
