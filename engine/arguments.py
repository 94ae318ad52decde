"""Arguments of `init` that are checked, refused with a remedy, or only about this process."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from engine.core.labels import is_value

__all__ = ["checked_labels", "checked_namespace", "refuse", "set_up_logging"]

_NO_DASHBOARD = (
    "there is no dashboard; engine.state, engine.timeline() and the command penstock show what is "
    "going on"
)
_CONFIG = "limits and time-outs are fields of engine.config.Config; pass init(config=...)"
_ONE_MACHINE = "the engine starts on this machine without any port; leave it out"
_NO_FILES = "the engine keeps nothing on disk; leave it out"
# What Ray's init takes and this one does not: what is the case instead. None and False ask for
# nothing and are accepted.
_REFUSED = {
    "include_dashboard": _NO_DASHBOARD,
    "dashboard_host": _NO_DASHBOARD,
    "dashboard_port": _NO_DASHBOARD,
    "job_config": "pass runtime_env= and namespace= to init() itself",
    "logging_config": "pass logging_level= and logging_format=, or configure the logger 'engine'",
    "local_mode": "tasks always run in workers; debug by calling the plain function f._function()",
    "enable_object_reconstruction": "it needs no switch",
    "storage": _NO_FILES,
    "_temp_dir": _NO_FILES,
    "_plasma_directory": _NO_FILES,
    "_system_config": _CONFIG,
    "_memory": "pass resources={'memory': bytes}",
    "_node_ip_address": _ONE_MACHINE,
    "_node_name": "give the node a label: init(labels={...})",
    "_redis_username": _ONE_MACHINE,
    "_redis_password": _ONE_MACHINE,
    "_driver_object_store_memory": "pass object_store_memory=",
    "_metrics_export_port": "there are no metrics over HTTP; engine.state has the figures",
    "_tracing_startup_hook": "engine.timeline() has what ran when",
}
_handlers: list[logging.Handler] = []


def refuse(given: Mapping[str, Any]) -> None:
    """Raise for arguments that `init` does not have: ValueError with a remedy, or TypeError."""
    for name, value in given.items():
        if name not in _REFUSED:
            raise TypeError(f"init() got an unexpected keyword argument {name!r}")
        if value is not None and value is not False:
            raise ValueError(f"init({name}={value!r}) is not for this engine: {_REFUSED[name]}")


def checked_namespace(namespace: Any) -> str:
    """The namespace, "default" if none is given."""
    if namespace is None:
        return "default"
    if not isinstance(namespace, str) or not namespace:
        raise ValueError(f"namespace={namespace!r}: expected a non-empty string")
    return namespace


def checked_labels(labels: Any) -> dict[str, str]:
    """The labels of a node."""
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels={labels!r}: expected a dictionary of strings")
    for name, value in labels.items():
        if not isinstance(name, str) or not name or not is_value(value):
            raise ValueError(
                f"labels={{{name!r}: {value!r}}}: expected names, and values of letters, digits, "
                "'_', '.', '-' and '/', at most 63"
            )
        if name.startswith("ray.io/"):
            raise ValueError(f"labels={{{name!r}: ...}}: the engine itself sets ray.io/...")
    return dict(labels)


def set_up_logging(level: int | str | None, form: str | None) -> None:
    """Level and format of the logger "engine" in this process."""
    logger = logging.getLogger("engine")
    if level is not None:
        logger.setLevel(level.upper() if isinstance(level, str) else level)
    if form is not None:
        while _handlers:  # of an earlier init
            logger.removeHandler(_handlers.pop())
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(form))
        logger.addHandler(handler)
        _handlers.append(handler)
