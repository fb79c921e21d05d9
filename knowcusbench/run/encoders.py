"""The commits of the branches that encoders name, recorded so that all workers and commands of a run load the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from knowcusbench.machine.progress import say
from knowcusbench.run.layout import RunStore
from knowcusbench.storage.files import local_path
from knowcusbench.storage.hub_cache import Branch, current_commit, is_commit
from knowcusbench.storage.tables import create_json, read_json, write_json, writing

if TYPE_CHECKING:
    from knowcusbench.run.run import Run

SOURCES = {"source": "revision", "processor": "processor_revision"}
"""Fields of encoders' specifications that may name a hub repository, and the fields of their revisions."""


def settle_commits(run: Run) -> Run:
    """Return the run with a commit for every branch that its encoders name.

    The commit is the recorded one, or else the one that the branch points to now, which is then recorded. Prints one
    line where a branch has moved since.
    """
    named = {one for spec in (*run.metrics.values(), run.effects.encoder) for one in _branches(spec)}
    now = {
        f"{source}@{name or 'main'}": commit
        for source, name in sorted(named)
        if (commit := current_commit(source, name or None))
    }
    with writing():
        if now and not create_json(run.store.encoders, now):
            recorded = recorded_commits(run.store)
            if now.keys() - recorded.keys():
                write_json(run.store.encoders, now | recorded)
            for branch in now.keys() & recorded.keys():
                if now[branch] != recorded[branch]:
                    say(
                        f"{run.store.root}: {branch} was at {recorded[branch]} when the run began and is at "
                        f"{now[branch]} now; the run keeps the former; choose another run.name= for the latter"
                    )
    return with_recorded_commits(run)


def with_recorded_commits(run: Run) -> Run:
    """Return the run with the recorded commits of the branches that its encoders name."""
    commits = recorded_commits(run.store)
    if not commits:
        return run
    metrics = {name: _settled(metric, commits) for name, metric in run.metrics.items()}
    return replace(run, metrics=metrics, effects=replace(run.effects, encoder=_settled(run.effects.encoder, commits)))


def recorded_commits(store: RunStore) -> dict[str, str]:
    """Return the recorded commits by repository and branch ("owner/name@main")."""
    return read_json(store.encoders) if store.encoders.exists() else {}


def _branches(spec: Any) -> Iterator[tuple[str, str]]:
    """Yield the hub repositories anywhere in a specification, each with its branch; "" is the main branch where none is
    named."""
    if not is_dataclass(spec):
        return
    for key, revision in SOURCES.items():
        if _is_branch(spec, key):
            yield getattr(spec, key), str(getattr(spec, revision) or "")
    for entry in fields(spec):
        yield from _branches(getattr(spec, entry.name))


def _is_branch(spec: Any, key: str) -> bool:
    source = getattr(spec, key, None)
    if not isinstance(source, str) or not hasattr(spec, SOURCES[key]) or is_commit(getattr(spec, SOURCES[key])):
        return False
    return not local_path(source).exists()


def _settled(spec: Any, commits: Mapping[str, str]) -> Any:
    """Return a specification with the recorded commits of its branches."""
    if not is_dataclass(spec):
        return spec
    assert not isinstance(spec, type)
    before = {entry.name: getattr(spec, entry.name) for entry in fields(spec) if entry.init}
    after = {name: _settled(value, commits) for name, value in before.items()}
    for key, revision in SOURCES.items():
        if _is_branch(spec, key):
            name = str(after[revision] or "")
            if commit := commits.get(f"{after[key]}@{name or 'main'}"):
                after[revision] = Branch(name, commit)
    changed = {name: value for name, value in after.items() if value is not before[name]}
    return replace(spec, **changed) if changed else spec
