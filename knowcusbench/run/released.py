"""The checkpoints of the benchmark's release that a run's method uses."""

from collections.abc import Mapping, Sequence
from typing import Any

from knowcusbench.benchmark.types import Concept
from knowcusbench.errors import RunError
from knowcusbench.run.layout import RunStore
from knowcusbench.storage.tables import read_json, write_json


def check_released(store: RunStore, label: str, concepts: Sequence[Concept], method: Any) -> None:
    """Record the digests of the released checkpoints that a method uses, or check them against the recorded ones.

    Raises RunError, naming the concepts, for checkpoints that were replaced.
    """
    # Imported here because a run without released checkpoints needs no torch for this.
    from knowcusbench.adaptation.released import released_file
    from knowcusbench.adapters.peft_files import file_digest

    if not _takes_released(method):
        return
    digests = {concept.name: file_digest(released_file(concept)) for concept in concepts if concept.visual_checkpoint}
    path = store.released(label)
    recorded = read_json(path) if path.exists() else {}
    if changed := sorted(name for name, digest in recorded.items() if digests.get(name, digest) != digest):
        raise RunError(
            f"{store.root}: {label} was made with another visual_ckpt/ of {', '.join(changed)}; put the earlier files "
            "back, or choose another run.label="
        )
    write_json(path, {**recorded, **digests})


def _takes_released(node: Any) -> bool:
    if isinstance(node, Mapping):
        return node.get("use_released") is True or any(map(_takes_released, node.values()))
    return False
