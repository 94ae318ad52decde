"""Runtime environments as data: what a worker finds, and what its children inherit.

An environment is a mapping with `env_vars`, `working_dir` and `py_modules`, all optional. Between
processes it travels in one canonical encoding, so that equal environments are equal bytes; the
empty one is `b""`. Workers of one environment never run a task of another.

On a node that serves several drivers it also says, as `job`, for which of them: its id, namespace,
import path and directory. So what a driver's work needs of it travels with the work, to its
children too, and is still known when the driver is gone and a detached actor starts again.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "Scope",
    "decode_environment",
    "encode_environment",
    "job_of",
    "merge_environments",
    "said_by_user",
]

_encode = msgspec.msgpack.Encoder(order="sorted").encode
_decode = msgspec.msgpack.Decoder().decode


def encode_environment(environment: dict[str, Any]) -> bytes:
    """Canonical bytes; fields that say nothing are left out."""
    said = {name: value for name, value in environment.items() if value}
    return _encode(said) if said else b""


def decode_environment(encoded: bytes) -> dict[str, Any]:
    """The inverse of `encode_environment`."""
    return _decode(encoded) if encoded else {}


def job_of(encoded: bytes) -> dict[str, Any]:
    """The driver's facts; empty on a node that is a driver's own."""
    job: dict[str, Any] = decode_environment(encoded).get("job", {})
    return job


def said_by_user(environment: dict[str, Any]) -> dict[str, Any]:
    """The environment without what the engine itself has added."""
    return {name: value for name, value in environment.items() if name != "job"}


def merge_environments(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """What a child runs in: variables are merged, the child's first; other fields replace."""
    merged = {**parent, **child}
    if "env_vars" in parent and "env_vars" in child:
        merged["env_vars"] = {**parent["env_vars"], **child["env_vars"]}
    return merged


class Scope(msgspec.Struct, frozen=True):
    """What work submitted here inherits unless it says otherwise.

    A new object whenever it changes, so that identity tells whether something computed from it
    still holds.
    """

    environment: dict[str, Any]
    group: bytes = b""
