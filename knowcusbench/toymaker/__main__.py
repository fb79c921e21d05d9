"""The recipe of the embedded world's weights: `make toybox`, or single stages.

    python -m knowcusbench.toymaker [--folder build/toybox] [--processes 2] [--force] [STAGE ...]

Every stage resumes where it was interrupted, and is skipped when it is done. The last one, `install`, puts all parts
into the package.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import QwenImagePipeline
from transformers import Qwen2Tokenizer

from knowcusbench.backbone.loading import quiet_libraries
from knowcusbench.errors import ConfigError, exit_on_user_error
from knowcusbench.machine.device import resolve_device
from knowcusbench.run.provenance import provenance
from knowcusbench.storage.files import atomic_path, remove
from knowcusbench.toybox import TRAINED
from knowcusbench.toybox.models.pipeline import build_scheduler, build_tokenizer
from knowcusbench.toybox.shipped import WEIGHTS, write_manifest
from knowcusbench.toymaker.autoencoder import train_vae
from knowcusbench.toymaker.clip import train_clip
from knowcusbench.toymaker.denoiser import train_transformer
from knowcusbench.toymaker.language_model import train_language_model
from knowcusbench.toymaker.oracle import train_oracle
from knowcusbench.toymaker.phrases import train_phrases
from knowcusbench.toymaker.preference import train_preference
from knowcusbench.toymaker.segmenter import train_segmenter

LIMIT = 40_000_000
"""Largest size of all parts together, in bytes."""


@dataclass(frozen=True)
class Workshop:
    """Folders of the stages: `folder` has a folder with the state of each stage, and `parts`."""

    folder: Path
    device: torch.device
    processes: int
    force: bool

    @property
    def models(self) -> Path:
        """The finished models of the pipeline."""
        return self.folder / "models"

    @property
    def parts(self) -> Path:
        return self.folder / "parts"


def vae(shop: Workshop) -> None:
    trained = train_vae(shop.folder / "vae", shop.device, shop.processes).to(torch.bfloat16)
    with atomic_path(shop.models / "vae") as temporary:
        trained.save_pretrained(temporary)


def lm(shop: Workshop) -> None:
    tokenizer = build_tokenizer()
    trained = train_language_model(tokenizer, shop.folder / "lm", shop.device).to(torch.bfloat16)
    tokenizer.save_pretrained(shop.models / "tokenizer")
    with atomic_path(shop.models / "text_encoder") as temporary:
        trained.save_pretrained(temporary)


def dit(shop: Workshop) -> None:
    tokenizer = Qwen2Tokenizer.from_pretrained(shop.models / "tokenizer")
    train_transformer(shop.models, tokenizer, shop.folder / "dit", shop.device, shop.processes)


def phrases(shop: Workshop) -> None:
    trained = train_phrases(shop.models, shop.folder / "phrases", shop.device).to(torch.bfloat16)
    with atomic_path(shop.folder / "phrases" / "text_encoder") as temporary:
        trained.save_pretrained(temporary)


def pipeline(shop: Workshop) -> None:
    """Assemble the parts of the generation stack."""
    assemble(shop.folder, shop.models, shop.parts / "pipeline")


def assemble(folder: Path, models: Path, directory: Path) -> None:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    with quiet_libraries():
        assembled = QwenImagePipeline(
            scheduler=build_scheduler(),
            vae=AutoencoderKLQwenImage.from_pretrained(models / "vae"),
            text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "phrases" / "text_encoder"),
            tokenizer=Qwen2Tokenizer.from_pretrained(models / "tokenizer"),
            transformer=QwenImageTransformer2DModel.from_pretrained(folder / "dit" / "transformer"),
        )
        assembled.to(dtype=torch.bfloat16)
        for part in (assembled.vae, assembled.transformer):
            part.register_to_config(_name_or_path="")  # The origin in this folder is meaningless elsewhere.
        with atomic_path(directory) as temporary:
            assembled.save_pretrained(temporary, safe_serialization=True)


def oracle(shop: Workshop) -> None:
    train_oracle(shop.parts / "oracle", shop.folder / "oracle", shop.device, shop.models / "vae")


def clip(shop: Workshop) -> None:
    train_clip(shop.parts / "clip", shop.folder / "clip", shop.device)


def preference(shop: Workshop) -> None:
    train_preference(shop.parts / "pickscore", shop.folder / "preference", shop.device, shop.parts / "clip")


def sam(shop: Workshop) -> None:
    train_segmenter(shop.parts / "sam", shop.folder / "sam", shop.device)


def install(shop: Workshop) -> None:
    """Copy all parts into the package, with a manifest of their digests."""
    missing = [part for part in TRAINED if not (shop.parts / part).exists()]
    if missing:
        raise ConfigError(f"{shop.parts}: has no {', '.join(missing)}; run the stages that make them first")
    if WEIGHTS.exists() and not shop.force:
        raise ConfigError(f"{WEIGHTS}: there are weights already; --force (make toybox FORCE=1) replaces them")
    size = sum(path.stat().st_size for part in TRAINED for path in (shop.parts / part).rglob("*") if path.is_file())
    if size > LIMIT:
        raise ConfigError(f"{shop.parts}: {size / 1e6:.1f} MB, more than the {LIMIT / 1e6:.0f} MB that may ship")
    record = _record(shop.folder)
    new = WEIGHTS.with_name("weights.new")
    remove(new)  # Left by an interrupted installation.
    with atomic_path(new) as temporary:
        for part in TRAINED:
            shutil.copytree(shop.parts / part, temporary / part)
        write_manifest(temporary, {"training": record})
    remove(WEIGHTS)
    new.rename(WEIGHTS)
    print(f"{WEIGHTS}: {size / 1e6:.1f} MB; now `make toybox-eval` writes the card")


def _record(folder: Path) -> dict[str, object]:
    """Return the record of the training: code, hardware, and every stage's schedule, time and losses.

    Raises ConfigError for an unfinished stage.
    """
    stages = {}
    for file in sorted(folder.rglob("losses.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["step"] < record["schedule"]["steps"]:
            raise ConfigError(
                f"{file}: step {record['step']} of {record['schedule']['steps']}; run the stage to its end, or remove "
                f"{file.parent}"
            )
        kept = record["losses"][:-1][:: max(len(record["losses"]) // 20, 1)]
        stages[file.parent.relative_to(folder).as_posix()] = record | {"losses": [*kept, record["losses"][-1]]}
    here = {**provenance(), "command": "make toybox"}
    return {"provenance": here, "stages": stages}


STAGES: Mapping[str, tuple[Callable[[Workshop], None], str]] = {
    "vae": (vae, "models/vae"),
    "lm": (lm, "models/text_encoder"),
    "dit": (dit, "dit/transformer"),
    "phrases": (phrases, "phrases/text_encoder"),
    "pipeline": (pipeline, "parts/pipeline"),
    "oracle": (oracle, "parts/oracle"),
    "clip": (clip, "parts/clip"),
    "preference": (preference, "parts/pickscore"),
    "sam": (sam, "parts/sam"),
    "install": (install, ""),
}
"""The stages in order, each with the path that exists once it is done."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make toybox", description=str(__doc__).partition("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"by default all: {', '.join(STAGES)}")
    parser.add_argument("--folder", type=Path, default=Path("build/toybox"), help="keeps states, to resume from")
    parser.add_argument("--processes", type=int, default=2, help="processes of one thread each, for stages vae and dit")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--force", action="store_true", help="replace the weights in the package")
    arguments = parser.parse_args()
    with exit_on_user_error():
        unknown = [stage for stage in arguments.stages if stage not in STAGES]
        if unknown:
            raise ConfigError(f"{', '.join(unknown)}: no such stage; there are {', '.join(STAGES)}")
        chosen = arguments.stages or list(STAGES)
        if "install" in chosen and WEIGHTS.exists() and not arguments.force:
            raise ConfigError(f"{WEIGHTS}: there are weights already; --force (make toybox FORCE=1) replaces them")
        device = resolve_device(arguments.device)
        processes = 1 if device.type == "cuda" else arguments.processes
        if device.type == "cpu":
            torch.set_num_threads(1)
        shop = Workshop(arguments.folder, device, processes, arguments.force)
        for stage in chosen:
            run, result = STAGES[stage]
            if result and (shop.folder / result).exists():
                print(f"{stage}: done before ({shop.folder / result})")
            else:
                run(shop)


if __name__ == "__main__":
    main()
