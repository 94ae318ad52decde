"""What workers have printed lately: `engine.state.list_logs` and `engine.state.get_log`."""

from __future__ import annotations

from typing import Any

from engine.actor import ActorHandle
from engine.core.logs import STDERR, STDOUT
from engine.session import runtime

__all__ = ["get_log", "list_logs"]

_STREAMS = {None: None, "stdout": STDOUT, "stderr": STDERR}


def list_logs() -> list[dict[str, Any]]:
    """One record a worker that lives, or that printed before it ended: pid, name, lines, bytes.

    `name` is the function or actor that runs in it, or ran last; `lines` counts all it has printed,
    of which the last `bytes_kept` bytes can be read with `get_log`.
    """
    return list(runtime().ask("logs"))


def get_log(
    *,
    pid: int | None = None,
    actor_id: str | ActorHandle | None = None,
    task: str | None = None,
    stream: str | None = None,
    tail: int = 100,
) -> list[str]:
    """The last lines that a worker printed, dead or alive, in the order in which they were read.

    Args:
        pid: of this process,
        actor_id: or of the process of this actor (its id in hexadecimal, or a handle),
        task: or of every process, while it ran the function or actor of this name, as in the
            prefix of its lines.
        stream: "stdout" or "stderr"; None for both.
        tail: so many lines at most; -1 for all that are kept
            (`engine.config.Config.log_kept_bytes` of each worker).

    Raises ValueError when nothing is known of it: it never was, or ended long ago. Blocks for one
    round trip to the node.
    """
    if sum(one is not None for one in (pid, actor_id, task)) != 1:
        raise ValueError("get_log: expected exactly one of pid=, actor_id= and task=")
    if stream not in _STREAMS:
        raise ValueError(f"get_log: stream={stream!r}: expected 'stdout', 'stderr' or None")
    if type(tail) is not int or tail < -1:
        raise ValueError(f"get_log: tail={tail!r}: expected a number of lines, or -1 for all")
    actor: bytes | None = None
    if isinstance(actor_id, ActorHandle):
        actor = actor_id._actor_id
    elif actor_id is not None:
        actor = bytes.fromhex(actor_id)
    answer = runtime().ask(
        "log", pid=pid, actor=actor, title=task, stream=_STREAMS[stream], tail=tail
    )
    return list(answer)
