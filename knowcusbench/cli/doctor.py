"""`knowcusbench doctor`: this machine, the needs of the chosen configuration, and remedies for what is missing."""

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import huggingface_hub
import psutil
import torch
from omegaconf import DictConfig
from packaging.requirements import Requirement

from knowcusbench.backbone.base import BackboneSpec, Skeleton, unseen_layers
from knowcusbench.backbone.checkpoint import absent_files
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.config.build import build
from knowcusbench.config.compose import read_config
from knowcusbench.config.schema import Config
from knowcusbench.errors import RunError, UserError
from knowcusbench.machine import rates
from knowcusbench.machine.device import fast_dtype, resolve_device
from knowcusbench.machine.progress import duration
from knowcusbench.metrics.memory import scoring_bytes
from knowcusbench.run.dtype import settle_dtype
from knowcusbench.run.estimate import GIB, footprint_of, size, work_of
from knowcusbench.run.prepare import planned
from knowcusbench.storage.files import is_remote, local_path
from knowcusbench.storage.hub_cache import WEIGHTS, absent_weights, cached

OPTIONAL = {
    "bitsandbytes": "backbone.quantization=bitsandbytes_nf4",
    "torchao": "backbone.quantization=torchao_int8 or torchao_float8",
    "kernels": "attention kernels from the hub (backbone.attention=flash_hub, _flash_3_hub)",
    "ray": "several GPUs or machines",
}
"""Optional packages, each with what it enables."""

CONTEXT = 2 * GIB
"""Bytes that a GPU loses to its driver's context, kernels' workspaces and fragmentation."""

LORA_RANK = 16
"""LoRA rank for a recipe that names none. The rank hardly matters for the estimate."""


class Mark(Enum):
    """Marks of findings in the report."""

    ok = "ok"
    warning = "!!"
    missing = "NO"


@dataclass(frozen=True)
class Finding:
    """One line of the report: a mark, the subject and a text. `missing` keeps the configuration from running."""

    mark: Mark
    subject: str
    text: str

    def __str__(self) -> str:
        return f"  {self.mark.value:2}  {self.subject:<22}  {self.text}"


def doctor(composed: DictConfig) -> None:
    """Print the report, section by section.

    Raises RunError if the configuration can't run on this machine.
    """
    settled, _ = settle_dtype(composed, measure=True)
    config, resolved = read_config(settled)
    spec: BackboneSpec = build(config.backbone, "backbone")
    sections: dict[str, Callable[[], Iterator[Finding]]] = {
        "Python": lambda: packages("knowcusbench"),
        "Hardware": lambda: hardware(config.device),
        "Hub and weights": lambda: weights(spec, resolved["metrics"]),
        "Model": lambda: model(spec, resolved),
        "Memory": lambda: memory(spec, config, resolved),
        "Plan": lambda: plan(config, resolved),
    }
    missing = []
    for title, look in sections.items():
        print(title)
        for finding in _reported(look):
            print(finding)
            missing += [finding] if finding.mark is Mark.missing else []
    if missing:
        count = f"{len(missing)} thing{'s' if len(missing) > 1 else ''} missing"
        raise RunError(f"doctor: {count}, marked NO above; the first: {missing[0].subject}: {missing[0].text}")
    print("This configuration can run here.")


def _reported(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield a section's findings. A user error in it becomes a finding, so that the other sections are still
    reported."""
    try:
        yield from look()
    except UserError as error:
        yield Finding(Mark.missing, type(error).__name__, str(error))


def packages(distribution: str) -> Iterator[Finding]:
    """Report Python, the distribution's requirements and optional packages."""
    python = importlib.metadata.metadata(distribution)["Requires-Python"]
    fits = Requirement(f"python{python}").specifier.contains(platform.python_version())
    yield Finding(Mark.ok if fits else Mark.missing, "python", f"{platform.python_version()}, {python} is needed")
    found = []
    for text in importlib.metadata.requires(distribution) or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version and requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            have = f"{version} is installed" if version else "not installed"
            yield Finding(Mark.missing, requirement.name, f'{have}; pip install "{requirement}"')
    yield Finding(Mark.ok, f"{len(found)} packages", ", ".join(found))
    for name, purpose in OPTIONAL.items():
        version = _version(name)
        yield Finding(Mark.ok, name, f"{version or 'not installed (optional): pip install ' + name}; for {purpose}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware(device: str) -> Iterator[Finding]:
    """Report the processor, memory and the device used for computing."""
    main = psutil.virtual_memory()
    yield Finding(
        Mark.ok, "processor", f"{psutil.cpu_count()} cores, {size(main.available)} of {size(main.total)} memory free"
    )
    resolved = resolve_device(device)
    yield Finding(
        Mark.ok,
        "matrix products",
        f"{rates.rates_in_words(resolved)} on {resolved}: backbone.dtype=auto is {fast_dtype(resolved)}",
    )
    if resolved.type != "cuda":
        yield Finding(
            Mark.warning, "GPU", "none found: enough for the embedded world, at full size an image takes hours"
        )
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        bf16 = fast_dtype(torch.device("cuda", index)) == "bfloat16"
        text = f"{torch.cuda.get_device_name(index)}, {size(free)} of {size(total)} free, {'' if bf16 else 'no '}bf16"
        yield Finding(Mark.ok if bf16 else Mark.warning, f"GPU {index}", text)


def weights(spec: BackboneSpec, metrics: Mapping[str, Any]) -> Iterator[Finding]:
    """Report whether the hub can be asked, and whether the checkpoints of the backbone and the metrics are on this
    machine."""
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    yield Finding(Mark.ok, "hub", "offline (HF_HUB_OFFLINE): nothing is downloaded" if offline else "online")
    token = huggingface_hub.get_token() is not None
    yield Finding(Mark.ok, "token", "found" if token else "none; only gated repositories need one: hf auth login")
    wanted: list[tuple[str, str, str | None, Sequence[str]]]
    wanted = [("backbone", source, revision, WEIGHTS) for source, revision in spec.weight_files()]
    wanted += [("metrics", *found) for found in _sources(metrics)]
    sources: dict[tuple[str, str | None], tuple[str, Sequence[str]]] = {}
    for user, source, revision, files in wanted:
        first, needed = sources.get((source, revision), (user, ()))
        sources[source, revision] = first, needed or files
    for (source, revision), (user, files) in sources.items():
        yield _checkpoint(source, revision, user, files, offline=offline)


def _checkpoint(source: str, revision: str | None, user: str, files: Sequence[str], *, offline: bool) -> Finding:
    path = local_path(source)
    if path.exists():
        absent = _absent(path, files) if path.is_dir() else []
        return (
            Finding(Mark.missing, user, f"{source} lacks {_some(absent)}; copy it again")
            if absent
            else Finding(Mark.ok, user, source)
        )
    directory = cached(source, revision)
    absent = _absent(directory, files) if directory else []
    if directory and not absent:
        return Finding(Mark.ok, user, f"{source} in the hub's cache ({directory})")
    there = f"is here in part, without {_some(absent)}" if directory else "is not on this machine"
    if offline or source.count("/") != 1:
        at = f" --revision {revision}" if revision else ""
        return Finding(Mark.missing, user, f"{source} {there}; on one with a network: hf download {source}{at}")
    return Finding(Mark.warning, user, f"{source} {there}, and will be downloaded on first use")


def _absent(directory: Path, files: Sequence[str]) -> list[str]:
    """Return the files that a checkpoint's directory lacks, as far as its index files tell.

    `files` are names or globs of its weights; a processor has none.
    """
    if (directory / "model_index.json").exists():
        return absent_files(directory)
    if not files:
        return [] if any(directory.glob("*.json")) else ["*.json"]
    # A repository of several LoRAs may have them in subdirectories.
    return absent_weights(directory, files) if not any(directory.glob("*/*.safetensors")) else []


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _sources(node: Any) -> Iterator[tuple[str, str | None, Sequence[str]]]:
    """Yield the checkpoints named anywhere in the metrics' configuration: source, revision and weight files."""
    if not isinstance(node, Mapping):
        return
    if isinstance(source := node.get("source"), str):
        yield source, node.get("revision"), (node["file"],) if isinstance(node.get("file"), str) else WEIGHTS
    if isinstance(processor := node.get("processor"), str):
        yield processor, node.get("processor_revision"), ()
    for child in node.values():
        yield from _sources(child)


def model(spec: BackboneSpec, resolved: Mapping[str, Any]) -> Iterator[Finding]:
    """Report the backbone at its full shapes, without storage: parameters, and the layers that are edited and
    adapted."""
    skeleton = spec.skeleton()
    yield Finding(Mark.ok, "shapes", skeleton.source)
    for name, module in (("transformer", skeleton.transformer), ("text_encoder", skeleton.text_encoder)):
        count = sum(parameter.numel() for parameter in module.parameters())
        expected = skeleton.expected_parameters.get(name, count)
        text = f"{count:,} parameters" + ("" if count == expected else f", {expected:,} are published")
        yield Finding(Mark.ok if count == expected else Mark.missing, name, text)
    yield Finding(Mark.ok, "LoRA targets", f"{len(skeleton.lora_targets)} layers: {_summary(skeleton.lora_targets)}")
    yield from _edit_targets(skeleton, resolved["editor"])


def _edit_targets(skeleton: Skeleton, editor: Any) -> Iterator[Finding]:
    if not isinstance(editor, Mapping) or not {"modules", "layers"} <= editor.keys():
        return
    names = skeleton.text_modules(editor["modules"], editor["layers"])
    shapes = {tuple(skeleton.text_encoder.get_parameter(f"{name}.weight").shape) for name in names}
    yield Finding(Mark.ok, "edit targets", f"{len(names)} matrices {sorted(shapes)}: {_summary(names)}")
    if unseen := unseen_layers(skeleton.reach, editor["layers"]):
        yield Finding(Mark.warning, "edit targets", unseen)


def _summary(names: tuple[str, ...]) -> str:
    return f"{names[0]} ... {names[-1]}"


def memory(spec: BackboneSpec, config: Config, resolved: Mapping[str, Any]) -> Iterator[Finding]:
    """Report the memory for encoding, drawing and training, and options that make it fit."""
    device = resolve_device(config.device)
    free = torch.cuda.mem_get_info(device)[0] - CONTEXT if device.type == "cuda" else psutil.virtual_memory().available
    rank = int(resolved["recipe"].get("dreambooth", {}).get("rank", LORA_RANK))
    need = spec.memory(rank)
    for work, count in vars(need).items():
        fits = count <= free
        yield Finding(Mark.ok if fits else Mark.warning, work, f"{size(count)}, {size(free)} are free on {device}")
    yield _scoring(config, free, device)
    main = psutil.virtual_memory().available
    if device.type == "cuda" and (waiting := spec.waiting()):
        mark = Mark.ok if waiting <= main else Mark.missing
        yield Finding(mark, "main memory", f"{size(waiting)} wait there, {size(main)} are free")
    if max(vars(need).values()) <= free:
        yield from _without_checkpointing(spec, rank, free)
        return
    if device.type != "cuda":
        yield Finding(Mark.missing, "memory", "too little; this backbone wants a GPU")
        return
    for typed, smaller in spec.smaller():
        count = max(vars(smaller.memory(rank)).values())
        if count <= free and (waiting := smaller.waiting()) <= main:
            there = f" and {size(waiting)} of main memory" if waiting else ""
            yield Finding(Mark.missing, "memory", f"too little; this fits, with {size(count)}{there}: {typed}")
            return
    yield Finding(Mark.missing, "memory", f"too little on {device}, whatever the options; use a larger device")


def _scoring(config: Config, free: int, device: torch.device) -> Finding:
    """Return the finding on the encoders of all metrics, without the backbone: it is unloaded if it leaves too little
    memory."""
    count = scoring_bytes(build(node, f"metrics.{name}") for name, node in config.metrics.items())
    mark = Mark.ok if count <= free else Mark.warning
    return Finding(mark, "scoring", f"{size(count)} without the backbone, {size(free)} are free on {device}")


def _without_checkpointing(spec: BackboneSpec, rank: int, free: int) -> Iterator[Finding]:
    """Report if gradient checkpointing, which computes every forward of training twice, could be off."""
    if isinstance(spec, DiffusersSpec) and spec.gradient_checkpointing:
        count = replace(spec, gradient_checkpointing=False).memory(rank).training
        if count <= free:
            text = f"could be off here, training then needs {size(count)}: backbone.gradient_checkpointing=false"
            yield Finding(Mark.ok, "checkpointing", text)


def plan(config: Config, resolved: Mapping[str, Any]) -> Iterator[Finding]:
    """Report the disk space and time of the plan."""
    run = planned(config, resolved, makes_results=False)
    work = work_of(run)
    device = resolve_device(config.device)
    dtype = torch.float32 if resolved["backbone"].get("dtype") == "float32" else torch.bfloat16
    rate = rates.product_rates(device)[dtype]
    least = duration((work.sampling + work.training) / rate)
    more = f", {work.effect_images:,} more of the effects" if work.effect_images else ""
    yield Finding(
        Mark.ok,
        "time",
        f"{len(run.plan):,} images{more} and {work.passes:,} training passes: at least {least} on one device, at "
        f"{rate / 1e12:.3g} TFLOP/s (a matrix product here)",
    )
    # Embeddings are kept next to the images, but not in an object store.
    remote = is_remote(run.store.root)
    need = work.image_bytes + (0 if remote else work.embeds_bytes)
    if remote:
        yield Finding(Mark.ok, "images", f"{size(need)} at most, at {run.store.root}")
    else:
        yield _disk("images, embeddings", run.store.root.parent, need)
    yield _disk("cache", Path(config.cache_dir).expanduser(), 0)
    files = run.backbone.weight_files()
    here = all(Path(source).expanduser().exists() or cached(source, revision) for source, revision in files)
    download = 0 if here else sum(footprint_of(run).parameters.values()) * 2
    yield _disk("weights", Path(huggingface_hub.constants.HF_HUB_CACHE), download)


def _disk(subject: str, place: Path, need: int) -> Finding:
    existing = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{size(need)} at most, {size(free)} are free at {place}" if need else f"{size(free)} are free at {place}"
    return Finding(Mark.ok if need <= free else Mark.missing, subject, text)
