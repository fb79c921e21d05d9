"""A new method that runs, with its YAML and test, in a checkout of knowcusbench or as a package of its own."""

import importlib.metadata
import keyword
import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from knowcusbench.config.compose import options
from knowcusbench.errors import ConfigError
from knowcusbench.storage.tables import writing

CHECKOUT = {
    "method.py.jinja": "methods/{name}.py",
    "method.yaml.jinja": "configs/method/{name}.yaml",
    "test_method.py.jinja": "tests/methods/test_{name}.py",
}
"""Path in a checkout for each template."""

PACKAGE = {
    "pyproject.toml.jinja": "{name}/pyproject.toml",
    "package.py.jinja": "{name}/{package}/__init__.py",
    "method.py.jinja": "{name}/{package}/{name}.py",
    "configs.py.jinja": "{name}/{package}/configs/__init__.py",
    "method.yaml.jinja": "{name}/{package}/configs/method/{name}.yaml",
    "test_method.py.jinja": "{name}/tests/test_{name}.py",
}
"""Path in a package, which adds the method by an entry point, for each template."""


def new_method(name: str, directory: Path) -> list[Path]:
    """Write a method called `name`, and return the files.

    In a checkout of knowcusbench (`directory` or one of its parents) they are written next to its own methods;
    elsewhere they become an installable package `directory/name`. Raises ConfigError for a name that can't be a
    module's or is taken, and for files that exist already.
    """
    _check_name(name)
    checkout = _checkout(directory)
    package = "knowcusbench.methods" if checkout else f"knowcusbench_{name}"
    files = CHECKOUT if checkout else PACKAGE
    values = {
        "name": name,
        "package": package,
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "version": importlib.metadata.version("knowcusbench"),
    }
    paths = {template: (checkout or directory) / path.format(**values) for template, path in files.items()}
    top = paths["pyproject.toml.jinja"].parent if not checkout else None
    for path in (top,) if top else paths.values():
        if path.exists():
            raise ConfigError(f"new-method: {path} exists already; choose another name")
    environment = Environment(
        loader=PackageLoader("knowcusbench.cli"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    with writing():
        for template, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(environment.get_template(template).render(values), encoding="utf-8")
    return list(paths.values())


def next_steps(name: str, files: list[Path], directory: Path) -> str:
    """Return the commands to run next, after the list of files."""
    shown = [path.relative_to(directory) if path.is_relative_to(directory) else path for path in files]
    project = next((path.parent for path in shown if path.name == "pyproject.toml"), None)
    test = next(path for path in shown if path.name == f"test_{name}.py")
    install = [f"pip install -e {project}"] if project else []
    return "\n".join(
        [*(f"wrote {path}" for path in shown), "", *install, f"pytest {test}", f"knowcusbench bench method={name}"]
    )


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
        near = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_").lstrip("0123456789_")
        near = f"{near}_method" if keyword.iskeyword(near) else near
        hint = f"; did you mean {near!r}?" if near else ""
        raise ConfigError(f"new-method: {name!r} can't be a module's name (a-z, 0-9 and _, a letter first){hint}")
    if name in options("method"):
        raise ConfigError(f"new-method: there is a method {name!r} already; did you mean 'my_{name}'?")


def _checkout(directory: Path) -> Path | None:
    """Return the checkout of knowcusbench that contains a directory, or None."""
    for parent in (directory.resolve(), *directory.resolve().parents):
        project = parent / "pyproject.toml"
        if project.is_file() and re.search(
            r'(?m)^name = "knowcusbench"$', project.read_text(encoding="utf-8", errors="replace")
        ):
            return parent
    return None
