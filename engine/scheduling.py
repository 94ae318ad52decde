"""From options to a `Placing`: where a task or an actor is to run, or that it never can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.core.environments import encode_environment, merge_environments
from engine.core.labels import mismatch, parse
from engine.core.placing import Placing
from engine.core.resources import fits, to_units
from engine.runtime.client import Runtime
from engine.strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

__all__ = ["place"]


def place(
    home: Runtime,
    options: Mapping[str, Any],
    resources: dict[str, float],
    what: str,
    error: type[Exception],
) -> Placing:
    """Where work with these options goes, what it inherits from here included.

    Raises `error` when it can never run anywhere.
    """
    _check_feasible(home, resources, what, error)
    selector = {label: parse(one) for label, one in options.get("label_selector", {}).items()}
    _check_labels(home, selector, what, error)
    environment = home.scope.environment
    if "runtime_env" in options:
        environment = merge_environments(environment, options["runtime_env"])
    encoded = encode_environment(environment)
    strategy = options.get("scheduling_strategy") or _older_spelling(options)
    if strategy is None and home.scope.group:
        return Placing(resources, home.scope.group, -1, encoded, capture=True)
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        if strategy.placement_group is None:
            return Placing(resources, environment=encoded)
        group, index = strategy.placement_group, strategy.placement_group_bundle_index
        _check_bundles(group, index, resources, what, error)
        capture = bool(strategy.placement_group_capture_child_tasks)
        return Placing(resources, group.id, index, encoded, capture=capture)
    if isinstance(strategy, NodeAffinitySchedulingStrategy):
        if strategy.node_id != home.node.hex() and not strategy.soft:
            raise error(
                f"{what} has to run on node {strategy.node_id!r}, which does not exist; "
                f"engine.nodes() lists those that do, here only {home.node.hex()!r}. With "
                "soft=True it runs elsewhere."
            )
    elif isinstance(strategy, NodeLabelSchedulingStrategy):
        _check_labels(home, strategy.hard, what, error)
    return Placing(resources, environment=encoded, spread=strategy == "SPREAD")


def _older_spelling(options: Mapping[str, Any]) -> PlacementGroupSchedulingStrategy | None:
    """The option placement_group= and its companions, which Ray has deprecated."""
    if "placement_group" not in options:
        return None
    return PlacementGroupSchedulingStrategy(
        options["placement_group"],
        options.get("placement_group_bundle_index", -1),
        options.get("placement_group_capture_child_tasks"),
    )


def _check_feasible(
    home: Runtime, resources: dict[str, float], what: str, error: type[Exception]
) -> None:
    """An embedded engine never grows: what does not fit now never will."""
    total = home.info["resources"]
    short = {name: one for name, one in resources.items() if one > total.get(name, 0.0)}
    if short and home.info["embedded"]:
        raise error(
            f"{what} asks for {short} and this machine was started with {total}. Ask for less, or "
            "pass more to engine.init(num_cpus=, num_gpus=, resources=)."
        )


def _check_bundles(
    group: Any, index: int, resources: dict[str, float], what: str, error: type[Exception]
) -> None:
    bundles = group.bundle_specs if index < 0 else [group.bundle_specs[index]]
    need = to_units(resources)
    if not any(fits(need, to_units(bundle)) for bundle in bundles):
        raise error(
            f"{what} asks for {resources}, which fits into no bundle of its placement group: "
            f"{bundles}. Ask for less (num_cpus=0 for nothing), or make larger bundles."
        )


def _check_labels(
    home: Runtime, wanted: Mapping[str, Any], what: str, error: type[Exception]
) -> None:
    labels = home.info["labels"]
    problem = mismatch(labels, wanted)
    if problem:
        raise error(
            f"{what} can run nowhere: {problem}. The only node has the labels {labels}; "
            "engine.init(labels=) sets them."
        )
