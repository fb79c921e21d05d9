"""The front door from Python: run a benchmark, score a folder of images, open a run.

Nothing here changes the process that calls it: not the number of torch's threads, `sys.argv`, the environment, the
random state, Hydra's global state or signal handlers; and nothing is printed unless asked for. Errors are those of the
command (`knowcusbench.errors`). One exception: where fp32 computes on a GPU, torch's TF32 flags are turned off and stay
off, since loaded models stay in memory too.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from knowcusbench.errors import ConfigError, IncompleteError

if TYPE_CHECKING:
    from knowcusbench.run.results import Results
    from knowcusbench.stages.score_images import Scores

Location = str | PathLike[str]

SET_BY_LIBRARIES = ("TOKENIZERS_PARALLELISM", "TORCHINDUCTOR_CACHE_DIR")
"""Variables of the environment that libraries set when they are imported or used first."""


def bench(
    method: str | Sequence[str] = "mokus",
    *,
    concepts: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    benchmark: Location | None = None,
    overrides: Sequence[str] = (),
    name: str | None = None,
    root: Location | None = None,
    quiet: bool = True,
    progress: Callable[[str], None] | None = None,
) -> "Results":
    """Run `knowcusbench bench` for one method or several, and return the results of the run.

    Only what is missing in the run is made, as by the command, and the files are the same to the byte.

    Args:
        method: names of methods; several share the run, one after another.
        concepts: names or globs of the concepts that take part; all if None.
        seeds: one image per sample and seed; those of the benchmark if None.
        benchmark: the name of an option (`embedded`, `development`), or a directory in the release layout.
        overrides: of any other key, as on the command line: "recipe.dreambooth.steps=100".
        name: of the run; "default" if None.
        root: the directory of all runs; "results/runs" if None.
        quiet: False prints what the command prints.
        progress: gets each line of progress that the command would print; nothing is printed then.

    Raises ConfigError and others of `knowcusbench.errors`; IncompleteError after all methods if images are missing in
    the end or have no score (`open_run` shows the others).
    """
    from knowcusbench.config.compose import compose_with_choices, options, without_hydra
    from knowcusbench.config.overrides import quoted
    from knowcusbench.run.layout import RunStore
    from knowcusbench.run.results import Results
    from knowcusbench.stages.run import run_stages

    _refuse_threads(overrides)
    words = []
    if concepts is not None:
        words.append(f"grid.concepts=[{','.join(map(quoted, _several(concepts)))}]")
    if seeds is not None:
        words.append(f"grid.seeds=[{','.join(str(int(seed)) for seed in seeds)}]")
    if benchmark is not None and str(benchmark) in options("benchmark"):
        words.append(f"benchmark={benchmark!s}")
    elif benchmark is not None:
        words += ["benchmark=directory", f"benchmark.path={quoted(str(benchmark))}"]
    words += [f"run.{key}={quoted(str(value))}" for key, value in (("name", name), ("root", root)) if value]
    incomplete: list[str] = []
    path: Path | None = None
    with _speaking(quiet, progress):
        for one in _several(method):
            command = [f"method={one}", *words, *overrides]
            composed = compose_with_choices(command)
            label = composed.run.label or str(composed.hydra.runtime.choices["method"])
            config = without_hydra(composed)
            config.run.label = label
            path = RunStore.of(config.run).root
            try:
                run_stages("bench", config, ["knowcusbench", *command])
            except IncompleteError as error:
                # The other methods come first.
                incomplete.append(str(error))
    if incomplete:
        raise IncompleteError("; ".join(incomplete))
    if path is None:
        raise ConfigError("method: expected the name of a method, or several")
    return Results.open(path)


def score(
    images: Location,
    prompts: Location,
    references: Location | None = None,
    *,
    protocol: str | None = None,
    metrics: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = True,
    progress: Callable[[str], None] | None = None,
) -> "Scores":
    """Score a folder of images that any program made, as `knowcusbench score --images` does.

    Args:
        images: the folder.
        prompts: CSV, JSON or JSON lines with the columns image and prompt, and optionally concept, class_noun, phrase
            and subject.
        references: a folder of reference images, or with one sub-folder of them per concept.
        protocol: the name of an option (`dreambench_plus`); that of the configuration if None.
        metrics: names of metrics; those of the configuration if None.
        overrides, quiet, progress: as in `bench`.

    Raises ConfigError for what can't be used and ImageError if no image can be scored. A single image that can't be
    scored raises nothing: its note says why (`Scores.unscored`).
    """
    from knowcusbench.stages.score_images import score_images

    _refuse_threads(overrides)
    words = [f"protocol={protocol}"] if protocol is not None else []
    if metrics is not None:
        words.append(f"metrics=[{','.join(_several(metrics))}]")
    paths = [Path(str(path)).expanduser() if path is not None else None for path in (images, prompts, references)]
    with _speaking(quiet, progress):
        return score_images(paths[0], paths[1], paths[2], [*words, *overrides])  # type: ignore[arg-type]


def open_run(path: Location) -> "Results":
    """Open the results of a run: finished or not, made by this version or an earlier one, on this machine or another.

    Args:
        path: the run's directory ("results/runs/default"), or an fsspec URL of one.

    No plug-in and no benchmark of the run need be there. Raises RunError if there is no run.
    """
    from knowcusbench.run.results import Results

    return Results.open(str(path))


@contextmanager
def _speaking(quiet: bool, progress: Callable[[str], None] | None) -> Iterator[None]:
    from knowcusbench.machine.progress import listening

    listener = progress or ((lambda line: None) if quiet else None)
    unset = [name for name in SET_BY_LIBRARIES if name not in os.environ]
    try:
        with listening(listener) if listener else nullcontext():
            yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


def _refuse_threads(overrides: Sequence[str]) -> None:
    if isinstance(overrides, str):
        raise ConfigError(f"overrides: expected a list of overrides, found the text {overrides!r}")
    if any(word.lstrip("+~").startswith("cpu_threads=") for word in overrides):
        raise ConfigError("cpu_threads: the number of threads is the process's own; call torch.set_num_threads()")


def _several(names: str | Sequence[str] | Mapping[str, object]) -> list[str]:
    """Return names as a list; one may come alone."""
    return [names] if isinstance(names, str) else list(names)
