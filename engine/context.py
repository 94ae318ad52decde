"""`get_runtime_context`: who runs this code, and where."""

from __future__ import annotations

from typing import Any

from engine.session import runtime

__all__ = ["RuntimeContext", "get_runtime_context"]


class RuntimeContext:
    """Facts about the process and the call that runs in it; ids are in hexadecimal."""

    def __init__(self, home: Any) -> None:
        self._home = home

    def get_node_id(self) -> str:
        """The node this process belongs to."""
        return str(self._home.node.hex())

    def get_worker_id(self) -> str:
        """The process."""
        return str(self._home.id.hex())

    def get_job_id(self) -> str:
        """The driver of this cluster."""
        return str(self._home.info["driver"].hex())

    def get_task_id(self) -> str | None:
        """The call that runs now; None outside of one."""
        running = self._home.running
        return None if running is None else running.id.hex()

    def get_actor_id(self) -> str | None:
        """The actor this process runs; None when it runs none."""
        actor = getattr(self._home.running, "actor", None)
        return None if actor is None else actor.hex()

    @property
    def namespace(self) -> str:
        """Where named actors of this driver live."""
        return str(self._home.info["namespace"])

    def __repr__(self) -> str:
        return f"RuntimeContext(worker={self.get_worker_id()}, task={self.get_task_id()})"


def get_runtime_context() -> RuntimeContext:
    """The context of the calling code."""
    return RuntimeContext(runtime())
