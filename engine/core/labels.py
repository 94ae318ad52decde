"""Labels of nodes, and conditions on them.

A label that a node does not have equals nothing, so negated conditions hold for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Condition", "DoesNotExist", "Exists", "In", "NotIn", "is_value", "mismatch", "parse"]

_LENGTH_MAX = 63
_INSIDE = "_./-"


class Condition(Protocol):
    """Something that a label's value has to meet."""

    def holds(self, value: str | None) -> bool:
        """Whether it does; None for a label that is not there."""


class In:
    """The label is one of these values."""

    def __init__(self, *values: str) -> None:
        self.values = _checked(values)

    def holds(self, value: str | None) -> bool:
        """Whether the label is one of the values."""
        return value in self.values

    def __repr__(self) -> str:
        return f"{'in' if type(self) is In else '!in'}({', '.join(self.values)})"


class NotIn(In):
    """The label is none of these values, or not there."""

    def holds(self, value: str | None) -> bool:
        """Whether the label is none of the values."""
        return value not in self.values


class Exists:
    """The label is there."""

    def holds(self, value: str | None) -> bool:
        """Whether it is."""
        return value is not None

    def __repr__(self) -> str:
        return "there"


class DoesNotExist:
    """The label is not there."""

    def holds(self, value: str | None) -> bool:
        """Whether it is not."""
        return value is None

    def __repr__(self) -> str:
        return "absent"


def is_value(value: object) -> bool:
    """Whether this can be a label's value: at most 63 letters, digits, and "_.-/" inside."""
    if not isinstance(value, str) or not value.isascii() or len(value) > _LENGTH_MAX:
        return False
    ends = value[:1] + value[-1:]
    return not value or (
        ends.isalnum() and all(one.isalnum() or one in _INSIDE for one in value)
    )


def _checked(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or not all(map(is_value, values)):
        raise ValueError(
            f"{', '.join(map(repr, values)) or 'nothing'}: expected values of a label: letters, "
            "digits, '_', '.', '-' and '/', at most 63"
        )
    return values


def parse(condition: str) -> Condition:
    """A condition in its short spelling: "a", "!a", "in(a, b)" or "!in(a, b)"; ValueError else."""
    kind = NotIn if condition.startswith("!") else In
    plain = condition.removeprefix("!")
    if plain.startswith("in(") and plain.endswith(")"):
        return kind(*(one.strip() for one in plain[3:-1].split(",")))
    return kind(plain)


def mismatch(labels: Mapping[str, str], wanted: Mapping[str, Condition]) -> str:
    """The first condition that a node with these labels does not meet, in words; or nothing."""
    for label, condition in wanted.items():
        if not condition.holds(labels.get(label)):
            found = repr(labels[label]) if label in labels else "not set"
            return f"label {label!r} has to be {condition!r} and is {found}"
    return ""
