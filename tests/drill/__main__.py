"""The fault drill: a run that is killed repeatedly ends like an undisturbed one.

    python -m tests.drill                       every part
    python -m tests.drill kills --kills=100     the driver, workers and nodes killed at random moments
    python -m tests.drill drivers               two commands on one run directory at once
    python -m tests.drill disk                  a disk that is full (needs the right to mount one in memory)

Every part makes the embedded benchmark's samples with short training (`WORDS`), and compares with the undisturbed run:
images and scores byte by byte, none missing, and none written twice. An observer of the file system and the journals of
all processes count the writes.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from knowcusbench.storage.tables import read_lines
from tests.drill.observer import Observed, observed

WORDS = (
    "method=mokus",
    "recipe.dreambooth.steps=20",
    "recipe.dreambooth.prior_images=0",
    "recipe.ultraedit.rounds=1",
    "backbone.steps=4",
)
RESULTS = ("images", "scores", "floors", "ceilings", "effects", "together", "interference", "unrelated")


def main() -> None:
    parser = argparse.ArgumentParser(prog="drill", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["kills", "drivers", "disk"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean-seconds", type=float, default=12.0, help="mean time between two kills, after start-up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        root = Path(folder)
        started = time.monotonic()
        finish(root / "undisturbed", "engine=local")
        print(f"undisturbed run: {time.monotonic() - started:.0f} s", flush=True)
        parts = {"kills": drill_kills, "drivers": drill_drivers, "disk": drill_disk}
        for part in options.parts:
            started = time.monotonic()
            print(f"{part}: {parts[part](root, options)} ({time.monotonic() - started:.0f} s)", flush=True)


def words(run: Path, *more: str) -> list[str]:
    """Return a command that makes the run `run`/run, with its own cache."""
    command = [sys.executable, "-m", "knowcusbench", "bench", *WORDS]
    return [*command, f"run.root={run}", "run.name=run", f"cache_dir={run}/cache", *more]


def start(run: Path, *more: str) -> subprocess.Popen[str]:
    run.mkdir(parents=True, exist_ok=True)
    log = (run / "log").open("a")
    return subprocess.Popen(words(run, *more), stdout=log, stderr=log, text=True, start_new_session=True)


def finish(run: Path, *more: str) -> None:
    code = start(run, *more).wait()
    if code:
        sys.exit(f"{run}: the command ended with {code}\n{(run / 'log').read_text()[-3000:]}")


def compare(root: Path, run: Path, seen: Observed) -> str:
    """Return a sentence about the run, or exit with its fault."""
    time.sleep(1)  # for the observer's last events
    wanted, found = results(root / "undisturbed" / "run"), results(run / "run")
    faults = [
        f"{name}: {'missing' if name not in found else 'differs'}"
        for name, data in wanted.items()
        if found.get(name) != data
    ]
    faults += [f"{name}: is not in the undisturbed run" for name in found.keys() - wanted.keys()]
    twice = {name: count for name, count in Counter(seen.written).items() if count > 1}
    faults += [f"{name}: written {count} times" for name, count in twice.items()]
    pictures = [name for name in wanted if name.endswith(".png")]
    unseen = set(pictures) - set(seen.written)
    faults += [f"{name}: the observer did not see it written" for name in unseen]
    drawn, recorded = journals(run / "run")
    faults += [f"{name}: recorded {count} times" for name, count in recorded.items() if count > 1]
    if faults:
        sys.exit("\n".join([f"{run}: {len(faults)} faults", *faults[:20]]))
    return (
        f"{len(wanted)} files the same byte by byte, of {len(pictures)} images none missing and none written twice; "
        f"by the journals {drawn} drawn for them"
    )


def journals(run: Path) -> tuple[int, Counter[str]]:
    """Count the pictures drawn to the end according to the journals of a run's processes, and the writes of each.

    A prompt's seeds are drawn together: of a batch killed between two files, one is drawn again and dropped.
    """
    lines = [line for folder in (run / "journal").iterdir() for line in read_lines(folder)]
    written = (f"{line['stage']} {name}" for line in lines for name in line.get("written", ()))
    return sum(line.get("images", 0) for line in lines), Counter(written)


def results(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for folder in RESULTS
        for path in (run / folder).rglob("*")
        if path.is_file()
    }


# Kills.


def drill_kills(root: Path, options: argparse.Namespace) -> str:
    """Kill a local run's driver, and the drivers, workers and a node of a Ray cluster, at random moments.

    After the requested number of kills the run may end.
    """
    dice = random.Random(options.seed)
    run, kills, starts = root / "killed", Counter[str](), 0
    cluster = Nodes()
    try:
        with observed(run / "run", root / "undisturbed" / "run", RESULTS) as seen:
            while kills.total() < options.kills:
                on_ray = dice.random() < 0.6
                driver = start(run, *(cluster.words if on_ray else ["engine=local"]))
                starts += 1
                # Wait past the start-up, which is the same for every command.
                time.sleep(8)
                while driver.poll() is None and kills.total() < options.kills:
                    time.sleep(dice.expovariate(1 / options.mean_seconds))
                    victim = dice.choice(["driver", "worker", "worker", "node"]) if on_ray else "driver"
                    if kill(victim, driver, cluster, dice):
                        kills[victim] += 1
                    if victim == "driver":
                        break
                if driver.poll() not in (None, 0, -signal.SIGKILL):
                    sys.exit(f"the command ended with {driver.poll()}\n{(run / 'log').read_text()[-3000:]}")
                if driver.poll() == 0 and kills.total() < options.kills:
                    # The run ended before there were enough kills: start another one in a new directory.
                    outcome = compare(root, run, seen)
                    print(f"  after {kills.total()} kills: {outcome}", flush=True)
                    shutil.rmtree(run)
                    seen.begin_again(run / "run")
                driver.kill()
                driver.wait()
            finish(run, "engine=local")
            outcome = compare(root, run, seen)
    finally:
        cluster.stop()
    counts = ", ".join(f"{count} {victim}s" for victim, count in sorted(kills.items()))
    return f"{kills.total()} kills ({counts}) in {starts} commands: {outcome}"


def kill(victim: str, driver: subprocess.Popen[str], cluster: "Nodes", dice: random.Random) -> bool:
    """Kill -9; return whether there was a process to kill."""
    if driver.poll() is not None:
        return False
    if victim == "driver":
        driver.kill()
        driver.wait()
        return True
    if victim == "node":
        cluster.lose_node()
        return True
    workers = cluster.workers()
    if workers:
        dice.choice(workers).kill()
    return bool(workers)


class Nodes:
    """A Ray cluster of two nodes on this machine: one without cores, and one that can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.node = self.cluster.add_node(num_cpus=2)

    @property
    def words(self) -> list[str]:
        return ["engine=ray", f"engine.address={self.cluster.address}"]

    def workers(self) -> list[psutil.Process]:
        """Return the processes of the node's workers."""
        raylet = psutil.Process(self.node.all_processes["raylet"][0].process.pid)
        return [child for child in raylet.children() if " ".join(child.cmdline()).startswith("ray::Host")]

    def lose_node(self) -> None:
        """Stop the node, and start another."""
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = self.cluster.add_node(num_cpus=2)

    def stop(self) -> None:
        self.cluster.shutdown()


# Two drivers, and a full disk.


def drill_drivers(root: Path, options: argparse.Namespace) -> str:
    """Run two commands on one run directory at the same time, one of them on Ray's workers."""
    run = root / "shared"
    with observed(run / "run", root / "undisturbed" / "run", RESULTS) as seen:
        drivers = [
            start(run, "engine=local"),
            start(run, "engine=ray", "engine.cpus_per_worker=0.5", "engine.workers=2"),
        ]
        codes = [driver.wait() for driver in drivers]
        if any(codes):
            sys.exit(f"the commands ended with {codes}\n{(run / 'log').read_text()[-3000:]}")
        return f"two commands at once: {compare(root, run, seen)}"


def drill_disk(root: Path, options: argparse.Namespace) -> str:
    """Run on a disk in memory that is full now and then."""
    run, full = root / "small", 0
    place = run / "run"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        return "not run: no right to mount a disk (tests/stages/test_drawing.py injects the error instead)"
    try:
        with observed(place, root / "undisturbed" / "run", RESULTS) as seen:
            for size in range(1, 64):
                code = start(run, "engine=local").wait()
                if not code:
                    break
                last = (run / "log").read_text().splitlines()[-1]
                if code != 2 or "No space left on device" not in last:
                    sys.exit(f"the command ended with {code}: {last}")
                full += 1
                subprocess.run(["mount", "-o", f"remount,size={size + 1}m", str(place)], check=True)
            return f"full {full} times: {compare(root, run, seen)}"
    finally:
        subprocess.run(["umount", str(place)], check=False)


if __name__ == "__main__":
    main()
