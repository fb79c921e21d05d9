"""What a backbone says of a damaged checkpoint."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from knowcusbench.backbone.checkpoint import COMPONENTS
from knowcusbench.backbone.spec import DiffusersSpec
from knowcusbench.errors import UserError
from knowcusbench.testing.common import require


def check_damage(spec: DiffusersSpec, directory: Path) -> None:
    """A damaged checkpoint is refused with one line that names what is wrong."""
    for number, (named, damage) in enumerate(_damages(spec)):
        copy = directory / str(number)
        shutil.copytree(spec.source, copy)
        damage(copy)
        try:
            replace(spec, source=str(copy)).load()
        except UserError as error:
            line = str(error)
            require("\n" not in line and named in line, f"a damaged {named} must be named in one line, found: {line}")
        except Exception as error:
            raise AssertionError(f"a damaged {named} must be refused with a WeightsError, not {error!r}") from error
        else:
            raise AssertionError(f"a pipeline with a damaged {named} must be refused, it loads")
        shutil.rmtree(copy)


def _damages(spec: DiffusersSpec) -> Iterator[tuple[str, Callable[[Path], object]]]:
    for component in COMPONENTS:

        def truncate(copy: Path, component: str = component) -> None:
            (file,) = (copy / component).glob("*.safetensors")
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

        yield component, truncate

        def exchange(copy: Path, component: str = component) -> None:
            index = json.loads((copy / "model_index.json").read_text(encoding="utf-8"))
            index[component][1] = "AnotherClass"
            (copy / "model_index.json").write_text(json.dumps(index), encoding="utf-8")

        yield component, exchange
    yield "config.json", lambda copy: (copy / "vae" / "config.json").write_text("{", encoding="utf-8")
    yield "model_index.json", lambda copy: (copy / "model_index.json").unlink()
