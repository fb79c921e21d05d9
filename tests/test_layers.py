"""The floors of the house: what stands on what, over all imports of the package."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent

FLOORS = (
    "errors",
    "storage",
    "machine",
    "engine",
    "benchmark",
    "adapters",
    "backbone",
    "encoders",
    "editors",
    "metrics",
    "adaptation",
    "effects",
    "toybox",
    "config",
    "analysis",
    "run",
    "tracking",
    "report",
    "share",
    "stages",
    "api",
    "cli",
    "testing",
    "gpu timing toymaker methods baselines",
)
"""Rooms from the ground up; those on one line do not know each other. An import leads to a lower line or stays."""

ABOVE = ("knowcusbench", "knowcusbench.__main__")
"""The door and the command: they lead to everything and belong to no floor."""

HANDS_OVER = {
    "knowcusbench.backbone.checkpoint": "knowcusbench.backbone.loading",
    "knowcusbench.backbone.counts": "knowcusbench.backbone.counting",
    "knowcusbench.backbone.spec": "knowcusbench.backbone.resident",
    "knowcusbench.toybox.models.oracle": "knowcusbench.toybox.models.oracle_net",
}
"""Modules that do without torch, and those with torch that they import inside of a function when it comes to that."""

MOST_LINES, LARGEST_ROOM = 400, 0.15

FLOOR = {room: number for number, line in enumerate(FLOORS) for room in line.split()}

FOLDERS = {"knowcusbench": "knowcusbench", "methods": "knowcusbench.methods", "baselines": "knowcusbench.baselines"}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = file
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def imports(module: str, *, types: bool) -> Iterator[str]:
    """The modules of ours that a module imports, inside of functions too; `types`: and for type checkers."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    checked = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    hidden = {inner for node in checked for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in hidden and not types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules() and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


@cache
def arrows(*, types: bool) -> dict[str, set[str]]:
    return {
        module: {other for other in imports(module, types=types) if other != module and other not in ABOVE}
        for module in modules()
    }


def test_no_import_leads_to_a_higher_floor() -> None:
    upward = [
        f"{module} imports {other}"
        for module, others in arrows(types=True).items()
        if module not in ABOVE
        for other in others
        if room(module) != room(other) and FLOOR[room(other)] >= FLOOR[room(module)]
    ]
    assert upward == []


def test_no_modules_need_each_other_in_a_circle() -> None:
    needed = {module: others - {HANDS_OVER.get(module)} for module, others in arrows(types=False).items()}
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_every_room_has_a_floor_and_only_errors_and_api_lie_loose() -> None:
    rooms = {room(module) for module in modules() if module not in ABOVE}
    assert rooms == FLOOR.keys()
    loose = {file.stem for file in (ROOT / "knowcusbench").glob("*.py")}
    assert loose <= {"__init__", "__main__", "errors", "api"}


def test_modules_and_rooms_stay_small() -> None:
    lines = {module: file.read_text(encoding="utf-8").count("\n") for module, file in modules().items()}
    assert {module: count for module, count in lines.items() if count > MOST_LINES} == {}
    sizes = Counter[str]()
    for module, count in lines.items():
        if module not in ABOVE:
            sizes[room(module)] += count
    assert {name for name, count in sizes.items() if count > LARGEST_ROOM * sizes.total()} == set()
