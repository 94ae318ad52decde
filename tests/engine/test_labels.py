"""Conditions on labels: the short spelling, and what holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.labels import DoesNotExist, Exists, In, NotIn, is_value, mismatch, parse

LABELS = {"zone": "a", "kind": "gpu-a100"}


@pytest.mark.parametrize(
    ("wanted", "holds"),
    [
        ({"zone": "a"}, True),
        ({"zone": "b"}, False),
        ({"zone": "!b"}, True),
        ({"zone": "!a"}, False),
        ({"zone": "in(b, a)"}, True),
        ({"zone": "in(b,c)"}, False),
        ({"zone": "!in(b,c)"}, True),
        ({"zone": "!in(a,b)"}, False),
        ({"rack": "1"}, False),
        ({"rack": "!1"}, True),
        ({"rack": "!in(1,2)"}, True),
        ({"zone": "a", "kind": "gpu-a100"}, True),
        ({"zone": "a", "kind": "cpu"}, False),
        ({}, True),
    ],
)
def test_selectors(wanted: dict[str, str], holds: bool) -> None:
    problem = mismatch(LABELS, {label: parse(one) for label, one in wanted.items()})
    assert (problem == "") == holds, problem


def test_a_mismatch_says_what_was_found() -> None:
    assert mismatch(LABELS, {"zone": In("b", "c")}) == (
        "label 'zone' has to be in(b, c) and is 'a'"
    )
    assert mismatch(LABELS, {"rack": Exists()}) == "label 'rack' has to be there and is not set"
    assert "absent" in mismatch(LABELS, {"zone": DoesNotExist()})
    assert mismatch(LABELS, {"zone": Exists(), "rack": DoesNotExist(), "kind": NotIn("x")}) == ""


@pytest.mark.parametrize("wrong", ["a b", "-a", "a-", "in(a b)", "!in(,)x", "ä", "x" * 64])
def test_what_is_no_value(wrong: str) -> None:
    with pytest.raises(ValueError, match="expected values of a label"):
        parse(wrong)


def test_a_condition_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing: expected"):
        In()


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?", fullmatch=True))
def test_values(value: str) -> None:
    assert is_value(value)
    assert parse(value).holds(value)
    assert not parse("!" + value).holds(value)
    assert not is_value(value + "-")
