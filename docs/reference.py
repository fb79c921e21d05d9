"""The configuration reference as Markdown, read from the typed configuration.

Nothing of it is written by hand: sections are the dataclasses of `knowcusbench.config.schema`, options the files of
`configs/`, and their keys the fields of the classes that the files name by `_target_`. What a key means is the text
under "Attributes:" in its class's docstring.
"""

import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import omegaconf
import yaml

from knowcusbench.benchmark.types import Benchmark, Concept, KnowledgeItem, Prompt
from knowcusbench.config.schema import SECTIONS, Config

CONFIGS = Path(str(files("knowcusbench.configs")))

NOT_TYPED_BY_USERS = (Benchmark, Concept, KnowledgeItem, Prompt)
"""Dataclasses that fields refer to, and that no configuration file holds."""


OWN = "those below"
"""The default of a section: the defaults of its keys."""


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    Attributes:
        name: within its section.
        type: what it takes, in words of YAML.
        default: of the class, as YAML; empty where there is none and the key must be given.
        meaning: from the docstring, as Markdown.
    """

    name: str
    type: str
    default: str
    meaning: str


def sections() -> dict[str, type]:
    """The sections with a fixed shape, by key; "" is the whole."""
    return {"": Config, **SECTIONS}


def groups() -> dict[str, list[Path]]:
    """The files of every configuration group, by its name."""
    found: dict[str, list[Path]] = {}
    for file in sorted(CONFIGS.rglob("*.yaml")):
        group = file.parent.relative_to(CONFIGS).as_posix()
        if group != ".":
            found.setdefault(group, []).append(file)
    return found


@cache
def targets() -> dict[str, type]:
    """The classes that configuration files name by `_target_`, by that name."""
    names = {name for options in groups().values() for file in options for name in _targets(_content(file))}
    return {name: _imported(name) for name in sorted(names)}


def typed() -> list[type]:
    """Every dataclass that the configuration is checked against."""
    found: dict[type, None] = dict.fromkeys([*sections().values(), *targets().values()])
    waiting = list(found)
    while waiting:
        for hint in get_type_hints(waiting.pop()).values():
            for other in _dataclasses_in(hint):
                if other not in found and not inspect.isabstract(other):
                    found[other] = None
                    waiting.append(other)
    return list(found)


def keys(cls: type) -> list[Key]:
    """The keys of a class. Those without a description have an empty `meaning`."""
    hints, meanings = get_type_hints(cls), _meanings(cls)
    return [
        Key(entry.name, _type(hints[entry.name]), _default(entry), _meaning(hints[entry.name], meanings, entry.name))
        for entry in fields(cls)
        if entry.init
    ]


def render() -> str:
    """The whole reference."""
    parts = ["## Sections", ""]
    for name, cls in sections().items():
        parts += [f"### {name or 'The whole configuration'}", "", *_described(cls), *_table(cls)]
    others = [cls for cls in typed() if cls not in sections().values() and cls not in targets().values()]
    for cls in others:
        parts += [f"### {cls.__name__}", "", *_described(cls), *_table(cls)]
    parts += ["## Options", ""]
    for group, options in groups().items():
        parts += [f"### {group}=", ""]
        for file in options:
            parts += _option(group, file)
    parts += ["## Classes", "", "What options name by `_target_`, in alphabetical order.", ""]
    for target, cls in sorted(targets().items(), key=lambda pair: pair[1].__name__):
        parts += [f"({_label(target)})=", f"### {cls.__name__}", "", f"`{target}`", "", *_described(cls), *_table(cls)]
    return "\n".join(parts)


def _option(group: str, file: Path) -> Iterator[str]:
    content = _content(file)
    classes = [name for name in _targets(content) if name in targets()]
    yield f"**`{file.stem}`**" + (": " if classes else "")
    yield ", ".join(f"[{targets()[name].__name__}](#{_label(name)})" for name in dict.fromkeys(classes))
    yield from ("", "```yaml", file.read_text().rstrip(), "```", "")


def _described(cls: type) -> Iterator[str]:
    yield _markdown(inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[0].strip())
    yield ""


def _table(cls: type) -> Iterator[str]:
    rows = keys(cls)
    if not rows:
        yield from ("It has no keys.", "")
        return
    yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for key in rows:
        cells = (f"`{key.name}`", key.type, _shown(key.default), key.meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _shown(default: str) -> str:
    return default if default == OWN else f"`{default}`" if default else "needed"


def _content(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _imported(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and is_dataclass(hint) and hint not in NOT_TYPED_BY_USERS:
        yield hint
    for argument in get_args(hint):
        yield from _dataclasses_in(argument)


def _meanings(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say under "Attributes:", by name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, listed = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("\nAttributes:\n")
        for entry in re.split(r"\n(?=\S)", textwrap.dedent(listed)):
            names, colon, text = entry.partition(":")
            if colon:
                found |= dict.fromkeys(re.split(r",\s*", names.strip()), _markdown(" ".join(text.split())))
    return found


def _meaning(hint: Any, meanings: Mapping[str, str], name: str) -> str:
    """What a key means, and what its values mean where they are an enumeration's."""
    if name in meanings and isinstance(hint, type) and issubclass(hint, Enum):
        text = inspect.cleandoc(hint.__doc__ or "").replace("Attributes:", "")
        return f"{meanings[name]} {_markdown(' '.join(text.split()))}"
    return meanings.get(name, "")


def _markdown(text: str) -> str:
    """Docstrings use single backquotes, and angle brackets for what is to be filled in."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("*", "\\*") for part in parts)


def _type(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return "a mapping or interpolation"
    if hint is type(None):
        return "`null`"
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{member.value}`" for member in hint)
    if origin in (list, tuple):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return "list of " + _type(inner[0]) if len(set(inner)) == 1 else "list"
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "mapping"
    plain = {str: "text", int: "integer", float: "number", bool: "`true`, `false`"}
    named = next((target for target, cls in targets().items() if cls is hint), None)
    return plain.get(hint) or (f"[{hint.__name__}](#{_label(named)})" if named else hint.__name__)


def _default(entry: "Field[Any]") -> str:
    value = entry.default if entry.default_factory is NO_DEFAULT else entry.default_factory()
    if value is NO_DEFAULT or value == omegaconf.MISSING:
        return ""
    if is_dataclass(value):
        return OWN
    return _yaml(value)


def _yaml(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str) and value.startswith("${"):
        return value
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("...").strip()


def _label(target: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", target.lower())
