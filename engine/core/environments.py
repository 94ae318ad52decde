"""Runtime environments as data: what a worker finds, and what its children inherit.

An environment is a mapping with `env_vars`, `working_dir` and `py_modules`, all optional. Between
processes it travels in one canonical encoding, so that equal environments are equal bytes; the
empty one is `b""`. The node only compares these bytes: workers of one environment never run a task
of another.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Scope", "decode_environment", "encode_environment", "merge_environments"]

_encode = msgspec.msgpack.Encoder(order="sorted").encode
_decode = msgspec.msgpack.Decoder().decode


def encode_environment(environment: dict[str, Any]) -> bytes:
    """Canonical bytes; fields that say nothing are left out."""
    said = {name: value for name, value in environment.items() if value}
    return _encode(said) if said else b""


def decode_environment(encoded: bytes) -> dict[str, Any]:
    """The inverse of `encode_environment`."""
    return _decode(encoded) if encoded else {}


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
