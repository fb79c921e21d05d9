"""A command in a process of its own, and which modules it has loaded at its end."""

import json
import os
import subprocess
import sys
from typing import NamedTuple

COMPUTING = {
    "accelerate",
    "datasets",
    "diffusers",
    "open_clip",
    "peft",
    "ray",
    "segment_anything",
    "torch",
    "torchvision",
    "transformers",
}
"""What takes seconds and hundreds of megabytes to import, and only serves what computes."""

DRAWING = {"matplotlib", "scipy"}
"""What only reports take."""

TABLES = {"numpy", "pandas", "pyarrow"}

PROGRAM = """
import json, sys
from knowcusbench.cli.main import main
try:
    main()
finally:
    print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


class Ended(NamedTuple):
    """How a command ended: exit code, output, errors, and the packages that it has loaded."""

    code: int
    output: str
    error: str
    loaded: set[str]


def in_fresh_process(*words: object, **environment: str) -> Ended:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    output, _, loaded = done.stdout.rstrip("\n").rpartition("\n")
    return Ended(done.returncode, output, done.stderr, set(json.loads(loaded)))
