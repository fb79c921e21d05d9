"""The command: `knowcusbench <verb> [overrides]`.

The verbs of a run take Hydra overrides; `check` and `convert` take paths. A user error is one line on standard error
and exit code 2.
"""

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from knowcusbench.cli.termination import EXIT_CODE, Terminated, terminable
from knowcusbench.errors import BenchmarkError, UserError, exit_on_user_error

USAGE = """\
knowcusbench: benchmark of knowledge-aware concept customization

  knowcusbench <verb> [key=value ...]     one method
  knowcusbench <verb> -m [key=a,b ...]    a sweep into one run directory

A run, from its plan to its leaderboard (each verb does only what is missing):
  bench      all stages
  plan       count the samples, estimate the cost, write the plan
  adapt      customise the backbone for every concept
  generate   draw the images
  score      score them
  effects    measure what the adaptations do to everything else
  report     write the leaderboard

  probe      edit one fact, and draw its phrase before and after
  doctor     what this machine has, what the configuration needs, and what to do about the rest

  score --images DIR --prompts FILE [--references DIR] [--output FILE.csv] [key=value ...]
             score a folder of images that any other program made

A method of yours:
  new-method NAME         write a method that runs, its YAML and its test

Sharing results:
  export [OUTPUT.zip] [--group NAME] [--images N] [--dataset DIR] [--push OWNER/NAME [--public]] run.name=NAME
             pack a run's scores, protocols and a few images into one file
  leaderboard BUNDLE... [--output DIR] [report.columns=...]
             check bundles, and show them in one table

Benchmarks:
  check PATH              validate a benchmark directory and print its statistics
  convert SOURCE TARGET   a release directory to a Parquet data set, or back

Examples:
  knowcusbench bench method=mokus
  knowcusbench bench -m method=base,anchor,leak,mokus,naive_db,enc_ft benchmark=directory benchmark.path=DIR
  knowcusbench bench ablation=eta
  knowcusbench bench method=enc_ft grid.seeds=[0,1] run.name=two-seeds
  knowcusbench plan backbone=qwen_image benchmark=directory benchmark.path=DIR

  knowcusbench <verb> --help      the options and their values
  knowcusbench <verb> --cfg job   the composed configuration
  knowcusbench -sc install=bash   shell completion (also zsh, fish)
"""

RUN_VERBS = ("bench", "plan", "adapt", "generate", "score", "effects", "report", "probe", "doctor")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with a code.

    The codes are 0 (done), 2 (user error), 3 (done, but some images are missing), 130 (interrupted by SIGINT) and 143
    (stopped by SIGTERM).
    """
    if arguments is None:
        _speak_utf8()
        arguments = sys.argv[1:]
    arguments = list(arguments)
    _grow_gpu_memory_by_pages()
    try:
        with terminable(), exit_on_user_error():
            _dispatch(arguments)
    except KeyboardInterrupt:
        print("knowcusbench: interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    except Terminated:
        print("knowcusbench: stopped by SIGTERM; run the same command again to continue", file=sys.stderr)
        sys.exit(EXIT_CODE)


def _speak_utf8() -> None:
    """Make this process and its children read and write UTF-8, whatever the locale.

    A process whose file names have another encoding restarts itself, since that is set only at the start.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _grow_gpu_memory_by_pages() -> None:
    """Make torch's GPU allocator extend its segments page by page, by a variable that it reads when it starts.

    Blocks of fixed size leave gaps between the sizes of encoding, drawing, training and scoring.
    """
    if not {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    verb, rest = arguments[0], arguments[1:]
    if verb in ("-sc", "--shell_completion"):
        _complete(rest)
    elif verb == "score" and any(word.startswith("--images") for word in rest):
        from knowcusbench.cli.score_images import main as score_folder

        score_folder(rest)
    elif verb in RUN_VERBS:
        from knowcusbench.cli.run import run_verb

        run_verb(verb, rest)
    elif verb in OTHER_VERBS:
        OTHER_VERBS[verb](rest)
    else:
        from knowcusbench.errors import did_you_mean

        raise UserError(f"unknown verb {verb!r}{did_you_mean(verb, VERBS)}")


def _complete(rest: list[str]) -> None:
    """Complete the verb ourselves, and let Hydra complete the overrides after it."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if rest[:1] and rest[0].startswith("query=") and len(words) <= 2:
        print("\n".join(verb for verb in VERBS if verb.startswith(words[-1])))
        return
    if len(words) > 2:
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    from knowcusbench.cli.run import run_verb

    run_verb("bench", ["-sc", *rest])


def _new_method(rest: list[str]) -> None:
    if len(rest) != 1 or rest[0].startswith("-"):
        raise UserError("usage: knowcusbench new-method NAME")
    from knowcusbench.cli.new_method import new_method, next_steps

    print(next_steps(rest[0], new_method(rest[0], Path.cwd()), Path.cwd()))


def _export(rest: list[str]) -> None:
    from knowcusbench.cli.share import export

    export(rest)


def _leaderboard(rest: list[str]) -> None:
    from knowcusbench.cli.share import leaderboard

    leaderboard(rest)


def _check(rest: list[str]) -> None:
    if len(rest) != 1:
        raise UserError("usage: knowcusbench check PATH")
    from knowcusbench.benchmark import check_benchmark
    from knowcusbench.storage.files import local_path

    report = check_benchmark(local_path(rest[0]))
    print(report.render())
    if report.faults:
        count = len(report.faults)
        raise BenchmarkError(f"{rest[0]}: {count} fault{'s' if count > 1 else ''}, listed above", report.faults)


def _convert(rest: list[str]) -> None:
    if len(rest) != 2:
        raise UserError("usage: knowcusbench convert SOURCE TARGET")
    from knowcusbench.benchmark import export_dataset, import_dataset, load_benchmark
    from knowcusbench.storage.files import local_path

    source, target = map(local_path, rest)
    if target.exists():
        raise UserError(f"{target} exists already; name a new directory")
    if (source / "concept_image").is_dir():
        export_dataset(load_benchmark(source), target)
    else:
        import_dataset(source, target)
    print(f"wrote {target}")


OTHER_VERBS: Mapping[str, Callable[[list[str]], None]] = {
    "new-method": _new_method,
    "export": _export,
    "leaderboard": _leaderboard,
    "check": _check,
    "convert": _convert,
}
"""Verbs that compose no configuration of a run, by name: each takes the words after it."""

VERBS = (*RUN_VERBS, *OTHER_VERBS)
