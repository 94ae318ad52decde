"""Options of tasks and actors: one table, checked where they are given."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.core.labels import parse
from engine.core.resources import is_exact
from engine.core.values import STREAMING
from engine.runtime_env import RuntimeEnv
from engine.strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

__all__ = [
    "ACTOR",
    "METHOD",
    "TASK",
    "check_options",
    "max_calls_of",
    "resources_of",
    "returns_of",
    "tightest",
    "window_of",
]

TASK, ACTOR, METHOD = "task", "actor", "method"
# Items a generator may be ahead of its consumer: covers a round trip, bounds memory.
_WINDOW = 100


def _number(low: float, *, integer: bool = False, minus_one: bool = False) -> Callable[[Any], str]:
    kind = "an integer" if integer else "a number"
    wanted = f"{kind} >= {low:g}" + (", or -1 for no limit" if minus_one else "")

    def check(value: Any) -> str:
        ok = isinstance(value, int if integer else int | float) and not isinstance(value, bool)
        if ok and minus_one and value == -1:
            return ""
        return "" if ok and math.isfinite(value) and value >= low else wanted

    return check


def _amount(value: Any) -> str:
    problem = _number(0)(value)
    return problem or ("" if is_exact(value) else "no finer than steps of 0.0001")


def _devices(value: Any) -> str:
    whole = "a fraction below 1 (a device shared) or whole devices"
    problem = _amount(value)
    return problem or ("" if value < 1 or value == int(value) else whole)


def _text(value: Any) -> str:
    return "" if isinstance(value, str) and value else "a non-empty string"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "True or False"


def _one_of(*allowed: Any) -> Callable[[Any], str]:
    wanted = "one of " + ", ".join(map(repr, allowed))
    return lambda value: "" if value in allowed else wanted


_OF_THEIR_OWN = {
    "CPU": "num_cpus",
    "GPU": "num_gpus",
    "memory": "the option memory",
    "object_store_memory": "nothing: no task or actor reserves room in the store",
}


def _amounts(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "a mapping from resource name to amount"
    for name, amount in value.items():
        if not isinstance(name, str) or isinstance(amount, bool):
            return "names to be strings and amounts to be numbers"
        if not isinstance(amount, int | float) or not amount >= 0 or not math.isfinite(amount):
            return f"an amount >= 0 for {name!r}"
        if not is_exact(amount):
            return f"no finer steps than 0.0001 for {name!r}"
        if name in _OF_THEIR_OWN:
            return f"no {name!r} inside resources: use {_OF_THEIR_OWN[name]}"
    return ""


def _groups(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "a mapping from group name to the number of calls at a time"
    for name, limit in value.items():
        if _text(name):
            return "group names to be non-empty strings"
        if _number(1, integer=True)(limit):
            return f"an integer >= 1 for group {name!r}"
    return ""


def _exceptions(value: Any) -> str:
    if isinstance(value, bool):
        return ""
    ok = isinstance(value, list | tuple) and all(
        isinstance(one, type) and issubclass(one, BaseException) for one in value
    )
    return "" if ok else "True, False or a list of exception classes"


def _strategy(value: Any) -> str:
    known = (
        NodeAffinitySchedulingStrategy,
        NodeLabelSchedulingStrategy,
        PlacementGroupSchedulingStrategy,
    )
    if isinstance(value, known) or (isinstance(value, str) and value in ("DEFAULT", "SPREAD")):
        return ""
    return "'DEFAULT', 'SPREAD', or one of " + ", ".join(one.__name__ for one in known)


def _group(value: Any) -> str:
    return "" if hasattr(value, "bundle_specs") else "a PlacementGroup"


def _selector(value: Any) -> str:
    wanted = "label -> 'value', '!value', 'in(a, b)' or '!in(a, b)'"
    if not isinstance(value, Mapping):
        return wanted
    for label, condition in value.items():
        if not isinstance(label, str) or not isinstance(condition, str):
            return wanted
        try:
            parse(condition)
        except ValueError as error:  # says which value is wrong; the caller adds the rest
            return f"{wanted}; {error}"
    return ""


def _period(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return "a number of calls (int) or of seconds (float), above 0"
    return ""


def _returns(value: Any) -> str:
    if value == "streaming":
        return ""
    problem = _number(0, integer=True)(value)
    return problem and problem + ', or "streaming" for a generator'


def _speculative(value: Any) -> str:
    if isinstance(value, bool) or (isinstance(value, int | float) and 1 < value < math.inf):
        return ""
    return "True, False or a number > 1: how many times its siblings' median is late"


_BOTH = {TASK, ACTOR}
_TABLE: dict[str, tuple[set[str], Callable[[Any], str]]] = {
    "num_cpus": (_BOTH, _amount),
    "num_gpus": (_BOTH, _devices),
    "memory": (_BOTH, _amount),
    "resources": (_BOTH, _amounts),
    "accelerator_type": (_BOTH, _text),
    "label_selector": (_BOTH, _selector),
    "runtime_env": (_BOTH, lambda value: ""),  # checks itself
    "name": ({TASK, ACTOR, METHOD}, _text),
    "num_returns": ({TASK, METHOD}, _returns),
    "_generator_backpressure_num_objects": (
        {TASK, ACTOR, METHOD},
        _number(1, integer=True, minus_one=True),
    ),
    "max_retries": ({TASK}, _number(0, integer=True, minus_one=True)),
    "max_calls": ({TASK}, _number(0, integer=True)),
    "retry_exceptions": ({TASK, METHOD}, _exceptions),
    "enable_task_events": ({TASK, ACTOR, METHOD}, _flag),
    "speculative": ({TASK}, _speculative),
    "scheduling_strategy": (_BOTH, _strategy),
    "placement_group": (_BOTH, _group),
    "placement_group_bundle_index": (_BOTH, _number(-1, integer=True)),
    "placement_group_capture_child_tasks": (_BOTH, _flag),
    "namespace": ({ACTOR}, _text),
    "lifetime": ({ACTOR}, _one_of("detached", "non_detached", None)),
    "get_if_exists": ({ACTOR}, _flag),
    "max_restarts": ({ACTOR}, _number(0, integer=True, minus_one=True)),
    "max_task_retries": ({ACTOR, METHOD}, _number(0, integer=True, minus_one=True)),
    "max_pending_calls": ({ACTOR}, _number(1, integer=True, minus_one=True)),
    "checkpoint_every": ({ACTOR}, _period),
    "replayable": ({ACTOR}, _flag),
    "read_only": ({METHOD}, _flag),
    "max_concurrency": ({ACTOR}, _number(1, integer=True)),
    "concurrency_groups": ({ACTOR}, _groups),
    "concurrency_group": ({METHOD}, _text),
    "allow_out_of_order_execution": ({ACTOR}, _flag),
    "on_full": ({TASK, METHOD}, _one_of("block", "raise")),
}


def check_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, checked. ValueError for an unknown name, TypeError or ValueError for a value.

    `None` means "the default" and is dropped.
    """
    known = sorted(name for name, (kinds, _check) in _TABLE.items() if kind in kinds)
    checked = {}
    for name, value in options.items():
        if name not in known:
            raise ValueError(
                f"unknown option {name!r} for a{'n' if kind == ACTOR else ''} {kind}; "
                f"known are: {', '.join(known)}"
            )
        if value is None:
            continue
        wanted = _TABLE[name][1](value)
        if wanted:
            kind_of_error = ValueError if isinstance(value, int | float | str) else TypeError
            raise kind_of_error(f"option {name}={value!r}: expected {wanted}")
        checked[name] = RuntimeEnv.of(value) if name == "runtime_env" else value
    if "placement_group" in checked and "scheduling_strategy" in checked:
        raise ValueError(
            "options placement_group and scheduling_strategy say the same thing twice; use "
            "scheduling_strategy=PlacementGroupSchedulingStrategy(...)"
        )
    if checked.get("replayable") and "checkpoint_every" not in checked:
        raise ValueError("option replayable=True needs checkpoint_every: what is to be replayed?")
    if checked.get("get_if_exists") and "name" not in checked:
        raise ValueError("option get_if_exists=True needs a name: which actor is to be found?")
    return checked


def resources_of(options: Mapping[str, Any], default_cpus: float) -> dict[str, float]:
    """The resource vector that the options ask for."""
    amounts: dict[str, float] = {"CPU": options.get("num_cpus", default_cpus)}
    if options.get("num_gpus"):
        amounts["GPU"] = options["num_gpus"]
    if options.get("memory"):
        amounts["memory"] = options["memory"]
    if "accelerator_type" in options:  # a share of what a machine with such devices has
        amounts[f"accelerator_type:{options['accelerator_type']}"] = 0.001
    amounts.update(options.get("resources", {}))
    return {name: float(amount) for name, amount in amounts.items() if amount}


def max_calls_of(options: Mapping[str, Any]) -> int:
    """After how many calls a worker ends; 0 for never. A GPU is free only when its process ends."""
    return int(options.get("max_calls", 1 if options.get("num_gpus") else 0))


def returns_of(options: Mapping[str, Any], function: Any) -> int:
    """How many values a call returns; STREAMING for a generator."""
    wanted = options.get("num_returns")
    if wanted is None:
        generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        return STREAMING if generator else 1
    return STREAMING if wanted == "streaming" else int(wanted)


def window_of(options: Mapping[str, Any]) -> int:
    """How many items of a generator may be unconsumed; 0 for any number."""
    window: int = options.get("_generator_backpressure_num_objects", _WINDOW)
    return 0 if window == -1 else window


def tightest(windows: Iterable[int | None]) -> int | None:
    """The option `_generator_backpressure_num_objects` where several places give it."""
    given = [window for window in windows if window is not None]
    limits = [window for window in given if window != -1]
    return min(limits, default=-1) if given else None
