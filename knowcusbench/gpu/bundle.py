"""One folder with all that a bare GPU machine needs for the checks and timings: `make gpu-bundle`.

    python -m knowcusbench.gpu.bundle [--python 3.12] [--output build/gpu-bundle]

The folder has wheels of this package and its requirements, except `PRESENT` and their requirements, in the versions
installed here. Its `start.sh` installs them next to the machine's own packages, without a network, and runs both. It
must be run in a checkout.
"""

import argparse
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from knowcusbench.errors import ConfigError, RunError, exit_on_user_error

PRESENT = (
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "matplotlib",
    "scipy",
    "psutil",
    "jinja2",
)
"""Packages expected on a machine prepared for models."""

ALWAYS = ("pydantic",)
"""Packages bundled always: newer versions of `PRESENT` require them, the older ones on such machines do not."""

SOURCES_ONLY = ("antlr4-python3-runtime",)
"""Packages without a published wheel: one is built here, for any Python."""

LIMIT = 64 * 2**20
"""Largest size of the folder, in bytes."""

START = """\
#!/bin/sh
# Checks, then times, what knowcusbench computes on this machine's GPU: sh start.sh [FOLDER FOR THE LINES]
# CHECK_SECONDS and BENCHMARK_SECONDS bound them; together with the start they take under ten minutes.
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/out}
site=$(mktemp -d)
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$here"/*.whl || exit 2
export PYTHONPATH="$site" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 KNOWCUSBENCH_CACHE="$site/cache"
mkdir -p "$out"
# Two processes: the memory of the first is free for the second.
python3 -m knowcusbench.gpu.check --seconds "${CHECK_SECONDS:-170}" --output "$out/check-gpu.jsonl"
checked=$?
python3 -m knowcusbench.gpu.benchmark --seconds "${BENCHMARK_SECONDS:-340}" --output "$out/benchmark-gpu.jsonl" \\
    > "$out/benchmark-gpu.md"
timed=$?
cat "$out/benchmark-gpu.md"
rm -r "$site"
exit $((checked || timed))
"""


def required(names: Iterable[str], without: frozenset[str] = frozenset()) -> set[str]:
    """Return the canonical names of installed packages and of all their requirements.

    The packages in `without` are left out, and so are requirements of theirs alone.
    """
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found or name in without:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed, so optional here
        found.add(name)
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def carried() -> dict[str, str]:
    """Return the packages to bundle, with the versions installed here."""
    names = required(["knowcusbench"], without=frozenset(required(PRESENT))) - {"knowcusbench"} | required(ALWAYS)
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def write_bundle(output: Path, python: str) -> int:
    """Write the folder, and return its bytes. Raises RunError for a package without a wheel for this Python."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "pyproject.toml").exists():
        raise ConfigError("gpu-bundle: not in a checkout; run it in one, since it builds this package's wheel")
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"--output: {output} exists already; name a new directory, or remove it")
    pip = [sys.executable, "-m", "pip"]
    packages = carried()
    wheels = [f"{name}=={version}" for name, version in packages.items() if name not in SOURCES_ONLY]
    sources = [f"{name}=={version}" for name, version in packages.items() if name in SOURCES_ONLY]
    for command in (
        [
            *pip,
            "download",
            "--only-binary=:all:",
            f"--python-version={python}",
            "--no-deps",
            "-d",
            str(output),
            *wheels,
        ],
        [*pip, "wheel", "--no-deps", "-w", str(output), *sources, str(checkout)],
    ):
        done = subprocess.run([*command, "--quiet"], capture_output=True, encoding="utf-8")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RunError(f"gpu-bundle: pip could not get every wheel for Python {python} ({last})")
    (output / "start.sh").write_text(START, encoding="utf-8")
    size = sum(path.stat().st_size for path in output.iterdir())
    if size > LIMIT:
        raise RunError(f"gpu-bundle: {output} has {size / 2**20:.1f} MiB, more than the limit of {LIMIT / 2**20:.0f}")
    return size


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--python", default=here, help="the other machine's Python")
    parser.add_argument("--output", type=Path, default=Path("build/gpu-bundle"))
    options = parser.parse_args(arguments)
    with exit_on_user_error():
        size = write_bundle(options.output, options.python)
    print(f"{options.output}: {len(list(options.output.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
