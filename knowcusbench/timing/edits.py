"""Time to solve and write an edit of matrices of a text encoder's size, against the published solve.

    python -m knowcusbench.timing.edits [--inputs 3584 --outputs 18944 --matrices 16 --rows 5 20 100]

The n x n solve makes factors, recompresses them and writes them to disk, for all matrices. The d x d solve of the dense
change takes seconds per matrix for any number of rows: it is timed on one, in the same run, and not written. The passes
that capture a fact's rows are counted on the embedded text encoder.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from knowcusbench.adapters.peft_files import save_adaptation
from knowcusbench.adapters.types import Adaptation, Adapter
from knowcusbench.backbone import QwenImageSpec
from knowcusbench.backbone.base import Backbone
from knowcusbench.benchmark.types import Fact
from knowcusbench.editors.closed_form import edit_factors, recompress
from knowcusbench.editors.ultraedit import UltraEdit
from knowcusbench.machine.device import resolve_device
from knowcusbench.machine.rates import median_seconds
from knowcusbench.toybox.shipped import WEIGHTS

ETA = 1e-6
ENERGY = 0.999999


def random_rows(count: int, inputs: int, outputs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return keys (n, inputs) and values (n, outputs) in fp32, with the sizes of normalised rows."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(count, inputs, generator=generator)
    return keys.to(device), (ETA * inputs * torch.randn(count, outputs, generator=generator)).to(device)


def dense_solve(keys: Tensor, values: Tensor) -> Tensor:
    """Return the change (d_in, d_out) by the published d x d solve in fp32."""
    gram = keys.T @ keys + torch.eye(keys.shape[1], device=keys.device)
    change: Tensor = torch.linalg.solve(gram, keys.T @ values)
    return change


def solve_and_write(keys: Tensor, values: Tensor, matrices: int, directory: Path) -> None:
    """Edit `matrices` matrices with these rows, and store the adaptation."""
    factors = {f"layers.{number}": recompress(*edit_factors(keys, values), ENERGY) for number in range(matrices)}
    save_adaptation(Adaptation(text_encoder=Adapter.from_factors(factors)), directory)


def compare(
    rows: Sequence[int], inputs: int, outputs: int, matrices: int, repeats: int, device: torch.device
) -> pd.DataFrame:
    """Return one line for each number of rows.

    It has seconds per matrix of the n x n solve (with recompression; and with writing) and of the d x d solve, their
    ratio, and the bytes of all matrices: of the files written, and of the dense change.
    """
    lines = []
    for count in rows:
        keys, values = random_rows(count, inputs, outputs, device)
        solve = median_seconds(lambda: edit_factors(keys, values), device, repeats * matrices)  # noqa: B023
        with tempfile.TemporaryDirectory() as folder:
            places = [Path(folder) / str(number) for number in range(repeats + 1)]
            unused = iter(places)
            whole = median_seconds(
                lambda: solve_and_write(keys, values, matrices, next(unused)),  # noqa: B023
                device,
                repeats,
            )
            written = sum(file.stat().st_size for file in places[0].rglob("*") if file.is_file())
        dense = median_seconds(lambda: dense_solve(keys, values), device, 1)  # noqa: B023
        lines.append(
            {
                "rows": count,
                "n x n solve [ms/matrix]": 1e3 * solve,
                "solve, compress, write [ms/matrix]": 1e3 * whole / matrices,
                "d x d solve [ms/matrix]": 1e3 * dense,
                "times faster: solve": dense / solve,
                "times faster: all": dense * matrices / whole,
                "written [MB]": written / 1e6,
                "dense fp32 [MB]": 4 * inputs * outputs * matrices / 1e6,
            }
        )
    return pd.DataFrame(lines)


def capture_passes(backbone: Backbone, layers: Sequence[int]) -> tuple[int, int, int]:
    """Count the passes that capture a fact's rows at these decoder layers.

    Returns the forwards, the backwards, and the number of the model's layers on the backward path.
    """
    forwards: Counter[str] = Counter()
    backwards: Counter[str] = Counter()

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            forwards[name] += 1
            if output.requires_grad:
                output.register_hook(lambda gradient: backwards.update([name]))  # type: ignore[no-untyped-call]

        return hook

    editor = UltraEdit(eta=ETA, layers=tuple(layers))
    with ExitStack() as stack:
        for name in backbone.text_modules(("down_proj",), range(backbone.layer_count)):
            layer = backbone.text_encoder.get_submodule(name)
            stack.callback(layer.register_forward_hook(watch(name)).remove)
        editor.capture(backbone, backbone.text_modules(editor.modules, layers), [Fact("What is it?", "a red toy")])
    return max(forwards.values()), max(backwards.values()), len(backwards)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=3584)
    parser.add_argument("--outputs", type=int, default=18944)
    parser.add_argument("--matrices", type=int, default=16)
    parser.add_argument("--rows", type=int, nargs="+", default=[5, 20, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    table = compare(options.rows, options.inputs, options.outputs, options.matrices, options.repeats, device)
    print(
        f"{options.matrices} matrices {options.inputs} -> {options.outputs} on {device}, {torch.get_num_threads()} "
        "threads; the d x d solve is timed on one matrix."
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:,.2f}"))
    backbone = QwenImageSpec(source=str(WEIGHTS / "pipeline"), device=options.device, dtype="auto").load()
    layers = range(backbone.layer_count // 2, backbone.layer_count - 1)
    forwards, backwards, passed = capture_passes(backbone, layers)
    print(
        f"Capture of a fact at layers {layers[0]} to {layers[-1]} of the embedded text encoder "
        f"({backbone.text_encoder.dtype}): {forwards} forward "
        f"through its {backbone.layer_count} layers, {backwards} backward through the last {passed} of them."
    )


if __name__ == "__main__":
    main()
