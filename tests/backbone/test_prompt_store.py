"""Stored prompt embeddings stand for fresh ones."""

import hashlib
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from knowcusbench.adapters.types import Adaptation, Adapter, Gate
from knowcusbench.backbone.base import PromptEmbeds
from knowcusbench.backbone.prompt_store import SHARD, PromptStore, encoded_prompts, encoder_key
from knowcusbench.backbone.resident import DiffusersBackbone
from knowcusbench.errors import RunError

CPU = torch.device("cpu")
PROMPTS = ("a red robot on the beach", "a much longer prompt about something else, a house", "sks dog")


def an_edit(backbone: DiffusersBackbone) -> Adapter:
    (name,) = backbone.text_modules(["gate_proj"], [3])
    generator = torch.Generator().manual_seed(0)
    return Adapter.from_factors(
        {name: (torch.randn(1, 192, generator=generator), torch.randn(512, 1, generator=generator))}
    )


def made_up(prompt: str) -> PromptEmbeds:
    generator = torch.Generator().manual_seed(len(prompt))
    mask = torch.tensor([[1, 1, 0]]) if prompt.endswith("masked") else None
    return PromptEmbeds(torch.randn(1, 3, 4, generator=generator).bfloat16(), mask)


def test_stored_and_fresh_embeddings_draw_the_same_bytes(backbone: DiffusersBackbone, tmp_path: Path) -> None:
    edit = an_edit(backbone)
    for adapter in (None, edit):
        with backbone.adapted(Adaptation(text_encoder=adapter)):
            fresh = {prompt: backbone.encode(prompt) for prompt in PROMPTS}
            stored = encoded_prompts(tmp_path, backbone, adapter, PROMPTS)
            for prompt, embeds in fresh.items():
                found = stored(prompt)
                assert torch.equal(found.embeds, embeds.embeds)
                assert found.embeds.dtype == embeds.embeds.dtype
                assert found.mask is None
            images = [backbone.sample(source(PROMPTS[0]), [1, 2]) for source in (fresh.__getitem__, stored)]
        assert all(np.array_equal(a, b) for a, b in zip(*images, strict=True))


def test_every_state_of_the_text_encoder_has_its_own_key(backbone: DiffusersBackbone) -> None:
    edit = an_edit(backbone)
    (name,) = edit.config["target_modules"]
    gate = Gate({name: torch.ones(1, 192)}, temperature=0.1, bias=0.5)
    other = Adapter({key: tensor * 2 for key, tensor in edit.weights.items()}, edit.config)
    states = [
        None,
        edit,
        other,
        replace(edit, merged=True),
        Adapter(edit.weights, {**edit.config, "alpha_pattern": {name: 3}}),
        replace(edit, gate=gate),
        replace(edit, gate=replace(gate, bias=0.6)),
        replace(edit, gate=replace(gate, keys={name: torch.zeros(1, 192)})),
    ]
    assert len({encoder_key(backbone, state) for state in states}) == len(states)
    assert encoder_key(backbone, an_edit(backbone)) == encoder_key(backbone, edit)


def test_what_a_pipeline_makes_of_a_prompt_is_in_the_key_by_value(backbone: DiffusersBackbone, monkeypatch) -> None:
    """A model with one way only keeps the keys that it had."""
    assert backbone.encoding == {}
    weights = f"{backbone.digest} {backbone.device.type}"
    assert encoder_key(backbone, None) == hashlib.sha256(weights.encode()).hexdigest()[:32]
    keys = set()
    for encoding in ({}, {"taps": [9, 18, 27]}, {"taps": [9, 18]}, {"max_sequence_length": 256}):
        monkeypatch.setattr(backbone, "encoding", encoding)
        keys.add(encoder_key(backbone, None))
    assert len(keys) == 4
    monkeypatch.setattr(backbone, "encoding", {"max_sequence_length": 256, "taps": [1]})
    first = encoder_key(backbone, None)
    monkeypatch.setattr(backbone, "encoding", {"taps": [1], "max_sequence_length": 256})
    assert encoder_key(backbone, None) == first


def test_two_dtypes_of_the_same_weights_share_no_key(
    backbone_bf16: DiffusersBackbone, backbone_fp32: DiffusersBackbone
) -> None:
    """The digest of the weights is in the keys of embeddings, stage 1, class images, edits and effects."""
    assert backbone_bf16.digest != backbone_fp32.digest
    assert encoder_key(backbone_bf16, None) != encoder_key(backbone_fp32, None)


def test_only_missing_prompts_are_encoded_and_each_once(tmp_path: Path) -> None:
    encoded: list[str] = []

    def encode(prompt: str) -> PromptEmbeds:
        encoded.append(prompt)
        return made_up(prompt)

    PromptStore(tmp_path, "key").fill(["a", "b", "a"], encode)
    other = PromptStore(tmp_path, "key")
    other.fill(["b", "c masked"], encode)
    assert encoded == ["a", "b", "c masked"]
    assert torch.equal(other.get("c masked", CPU).mask, torch.tensor([[1, 1, 0]]))
    assert PromptStore(tmp_path, "another key").missing(["a"]) == ["a"]
    with pytest.raises(KeyError):
        other.get("d", CPU)


def test_so_many_prompts_as_a_shard_holds_are_in_memory(tmp_path: Path) -> None:
    """What was encoded before is on disk by the time the next shard begins: a kill loses at most one."""
    seen: list[int] = []

    def encode(prompt: str) -> PromptEmbeds:
        seen.append(len(PromptStore(tmp_path, "key").missing(prompts)))
        return made_up(prompt)

    prompts = [f"prompt {number}" for number in range(2 * SHARD + 3)]
    PromptStore(tmp_path, "key").fill(prompts, encode)
    assert seen == [len(prompts)] * SHARD + [SHARD + 3] * SHARD + [3] * 3
    assert len(list((tmp_path / "key").iterdir())) == 3


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    store = PromptStore(tmp_path, "key")
    store.fill(["a"], made_up)
    (shard,) = (tmp_path / "key").iterdir()
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(RunError, match=shard.name):
        PromptStore(tmp_path, "key")
    with pytest.raises(RunError, match=shard.name):
        store.get("a", CPU)


def fill(directory: Path, first: int) -> None:
    PromptStore(directory, "key").fill([f"prompt {n}" for n in range(first, first + 100)], made_up)


def test_several_processes_fill_one_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(tmp_path, 50 * number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    prompts = [f"prompt {n}" for n in range(200)]
    store = PromptStore(tmp_path, "key")
    assert store.missing(prompts) == []
    assert all(torch.equal(store.get(prompt, CPU).embeds, made_up(prompt).embeds) for prompt in prompts)
    assert not [path for path in (tmp_path / "key").iterdir() if path.name.startswith(".")]
