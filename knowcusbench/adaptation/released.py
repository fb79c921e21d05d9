"""The stage-1 LoRA that a benchmark's release ships for a concept (`visual_ckpt/<concept>/`)."""

from pathlib import Path
from typing import Any

from knowcusbench.adapters.diffusers_lora import read_diffusers_lora
from knowcusbench.adapters.types import Adaptation
from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import MethodError, WeightsError
from knowcusbench.machine.progress import say


def load_released(concept: Concept) -> Adaptation:
    """Return the concept's released adapter. Its cost is unknown and stays empty.

    Raises MethodError if the release has none, WeightsError if it can't be read.
    """
    file = released_file(concept)
    adapter = read_diffusers_lora(file)
    details: dict[str, Any] = {"released": file.name}
    if not any(tensor.any() for name, tensor in adapter.weights.items() if ".lora_B." in name):
        details["note"] = "all of its lora_B are zero: it changes nothing"
        say(f"knowcusbench: {file}: {details['note']}")
    return Adaptation(transformer=adapter, details=details)


def released_file(concept: Concept) -> Path:
    """Return the file of the concept's released adapter.

    Raises MethodError if the release has none, WeightsError if there are several.
    """
    directory = concept.visual_checkpoint
    if directory is None:
        raise MethodError(
            f"concept {concept.name!r} has no visual_ckpt/{concept.name}/ in the benchmark; "
            "set recipe.dreambooth.use_released=false to train its LoRA"
        )
    files = sorted(directory.glob("[!.]*.safetensors"))
    if len(files) != 1:
        below = sorted(path.relative_to(directory).as_posix() for path in directory.glob("*/**/[!.]*.safetensors"))
        elsewhere = f"; move one of {', '.join(below[:3])} there" if below and not files else ""
        raise WeightsError(f"{directory}: expected one .safetensors file, found {len(files)}{elsewhere}")
    return files[0]
