"""Rendering: Jinja2 with autoescape, and file names that are safe in any URL."""

import json
import re
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from knowcusbench.analysis.columns import number
from knowcusbench.analysis.footnotes import coverage, dagger
from knowcusbench.storage.digests import text_digest

UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
"""Escapes of the characters that could end a script element or a line of JavaScript."""


def environment() -> Environment:
    """Return the Jinja2 environment of the pages. All text is escaped, in every template."""
    made = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=PackageLoader("knowcusbench.report.pages"),
    )
    made.filters |= {
        "data": script_json,
        "yaml": _yaml,
        "words": lambda text: str(text).replace("_", " "),
        "with_value": lambda cell, value: replace(cell, value=value),
        "groupby_neighbours": lambda items, name: [list(own) for _, own in groupby(items, attrgetter(name))],
    }
    made.globals |= {"number": number, "dagger": dagger, "coverage": coverage}
    return made


def script_json(data: Any) -> Markup:
    """Return JSON for a script element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(UNSAFE))


def _yaml(data: Any) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True)).rstrip()


def file_name(text: str) -> str:
    """Return a file name for any text: lower-case letters, digits, `-` and `_`.

    Different texts have different names, also on file systems that ignore case.

    >>> file_name("naive_db")
    'naive_db'
    >>> file_name("Naïve DB")
    'na-ve-db-3a3bcf77'
    """
    plain = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:60]
    return plain if plain and plain == text else f"{plain}-{text_digest(text, 8)}".lstrip("-")
