"""Every test is of a kind, by which it can be chosen."""

import pytest
from conftest import MARKS

KINDS = {"unit", "model", "command", "browser", "latex"}


def test_every_test_is_of_a_kind(request: pytest.FixtureRequest) -> None:
    """Of those that were collected beside this one."""
    for item in request.session.items:
        kinds = KINDS & {mark.name for mark in item.iter_markers()}
        assert kinds == {"unit"} or (kinds and "unit" not in kinds), item.nodeid
        assert {MARKS[name] for name in {*MARKS} & {*item.fixturenames}} <= {mark.name for mark in item.iter_markers()}
