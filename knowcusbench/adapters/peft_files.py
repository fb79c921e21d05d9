"""Adaptations on disk: PEFT's own files for each adapter, and one JSON file with cost and digests.

    <directory>/adaptation.json
    <directory>/transformer/adapter_config.json, adapter_model.safetensors      (if there is one)
    <directory>/text_encoder/adapter_config.json, adapter_model.safetensors     (if there is one)
    <directory>/text_encoder/gate.safetensors                                   (if it is gated: the keys by module)

The adapter folders load with `peft.PeftModel.from_pretrained`; PEFT ignores the gate. The JSON file holds `merged` and
the gate's temperature, bias and parts; temperature and bias may be edited there by hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knowcusbench.adapters.types import Adaptation, Adapter, Cost, Gate
from knowcusbench.errors import MethodError, WeightsError
from knowcusbench.storage.digests import json_digest
from knowcusbench.storage.files import atomic_path, is_remote, json_text
from knowcusbench.storage.finite import not_finite

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
PREFIX = "base_model.model."
"""The prefix of every module name in PEFT's files."""
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
GATE_FILE = "gate.safetensors"
RECORD_FILE = "adaptation.json"
RECORD_KEYS = {"format", "cost", "bytes", "details", "merged", "gates", "digests"}


def save_adaptation(adaptation: Adaptation, directory: Path) -> None:
    """Write an adaptation, atomically. Raises MethodError, and writes nothing, if it contains NaN or infinity."""
    adapters = {
        name: adapter
        for name, adapter in (
            ("transformer", adaptation.transformer),
            ("text_encoder", adaptation.text_encoder),
        )
        if adapter
    }
    for name, adapter in adapters.items():
        if odd := not_finite(adapter.tensors):
            raise MethodError(f"the {name}'s adapter has NaN or infinity in {odd}; nothing was saved at {directory}")
    with atomic_path(directory) as temporary:
        temporary.mkdir()
        record = {
            "format": FORMAT,
            "cost": asdict(adaptation.cost),
            "bytes": adaptation.nbytes,
            "details": dict(adaptation.details),
            "merged": [name for name, adapter in adapters.items() if adapter.merged],
            "gates": {
                name: {
                    "temperature": adapter.gate.temperature,
                    "bias": adapter.gate.bias,
                    "parts": dict(adapter.gate.parts),
                }
                for name, adapter in adapters.items()
                if adapter.gate
            },
            "digests": {name: save_adapter(adapter, temporary / name) for name, adapter in adapters.items()},
        }
        try:
            text = json_text(record, indent=2)
        except ValueError as error:
            raise MethodError(
                f"the adaptation's details or cost can't be written as JSON ({error}); nothing was saved at {directory}"
            ) from error
        (temporary / RECORD_FILE).write_text(text + "\n", encoding="utf-8")


def entry_name(key: Mapping[str, Any]) -> str:
    """Return the directory name of a key's result in a content-addressed store; the key holds JSON values only."""
    return json_digest(key, 32, sort_keys=True)


def is_saved(directory: Path) -> bool:
    """Return whether `directory` holds a complete adaptation."""
    return (directory / RECORD_FILE).exists()


def load_adaptation(directory: Path) -> Adaptation:
    """Read an adaptation. Raises WeightsError, naming the file, if one is missing or was altered."""
    record = load_record(directory)
    adapters = {
        name: load_adapter(directory / name, digests, merged=name in record["merged"], gate=record["gates"].get(name))
        for name, digests in record["digests"].items()
    }
    return Adaptation(
        transformer=adapters.get("transformer"),
        text_encoder=adapters.get("text_encoder"),
        cost=Cost(**record["cost"]),
        details=record["details"],
    )


def load_record(directory: Path) -> dict[str, Any]:
    """Return an adaptation's JSON (format, cost, bytes, details, merged, gates, digests) without reading its
    weights."""
    path = directory / RECORD_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: can't be read ({error}); remove {directory} to make it again") from error
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT or not record.keys() >= RECORD_KEYS:
        raise WeightsError(
            f"{path}: is not the record of an adaptation in format {FORMAT} (its format: {found!r}); "
            f"remove {directory} to make it again"
        )
    return record


def save_adapter(adapter: Adapter, directory: Path) -> dict[str, str]:
    """Write one adapter in PEFT's format and return the SHA-256 of each file."""
    from peft import LoraConfig
    from safetensors.torch import save

    directory.mkdir()
    weights = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in adapter.weights.items()}
    # Not `save_file`: on a full disk it raises an error that is no OSError.
    (directory / WEIGHTS_FILE).write_bytes(save(weights))
    config = LoraConfig(**adapter.config).to_dict()
    # PEFT keeps a set; sorted, so that the same adapter gives the same bytes.
    config["target_modules"] = sorted(adapter.config["target_modules"])
    (directory / CONFIG_FILE).write_text(
        json.dumps(config, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8"
    )
    if adapter.gate:
        keys = {name: own.contiguous() for name, own in adapter.gate.keys.items()}
        (directory / GATE_FILE).write_bytes(save(keys))
    files = (WEIGHTS_FILE, CONFIG_FILE, GATE_FILE) if adapter.gate else (WEIGHTS_FILE, CONFIG_FILE)
    return {name: file_digest(directory / name) for name in files}


def load_adapter(
    directory: Path, digests: Mapping[str, str], *, merged: bool, gate: Mapping[str, Any] | None
) -> Adapter:
    """Read one adapter in PEFT's format whose files have these SHA-256 `digests`; `gate` is its gate without the keys.

    Raises WeightsError for a missing, damaged or altered file, and for NaN or infinity in it.
    """
    remedy = f"remove {directory.parent} to make it again"
    for name, digest in digests.items():
        path = directory / name
        try:
            found = file_digest(path)
        except OSError as error:
            raise WeightsError(f"{path}: can't be read ({error.strerror}); {remedy}") from error
        if found != digest:
            raise WeightsError(f"{path}: was altered (its digest is not the recorded one); {remedy}")
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in _tensors(directory / WEIGHTS_FILE).items()}
    adapter = Adapter(
        weights,
        _lora_fields(json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))),
        merged,
        _read_gate(directory / GATE_FILE, gate) if gate else None,
    )
    if odd := not_finite(adapter.tensors):
        raise WeightsError(f"{directory}: {odd} has NaN or infinity; {remedy}")
    return adapter


def _read_gate(keys: Path, record: Mapping[str, Any]) -> Gate:
    parts = {module: tuple((rank, count) for rank, count in own) for module, own in record["parts"].items()}
    return Gate(_tensors(keys), record["temperature"], record["bias"], parts)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load, load_file

    return load(path.read_bytes()) if is_remote(path) else load_file(path)


def _lora_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: config[name] for name in ("r", "lora_alpha", "target_modules")}
    return fields | {name: config[name] for name in ("rank_pattern", "alpha_pattern") if config.get(name)}


def file_digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
