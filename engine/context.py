"""`get_runtime_context`: who runs this code, where, and with what."""

from __future__ import annotations

import json
from typing import Any

from engine.actor import ActorHandle, handle_of_self
from engine.core.environments import said_by_user
from engine.runtime.execution import Execution
from engine.runtime.worker import current_worker
from engine.runtime_env import RuntimeEnv
from engine.session import runtime

__all__ = ["RuntimeContext", "get_gpu_ids", "get_runtime_context"]


class RuntimeContext:
    """Facts about the process and the call that runs in it; ids are in hexadecimal.

    Everywhere: in a driver, what only tasks and actors have is None (or empty).
    """

    def __init__(self, home: Any) -> None:
        self._home = home

    @property
    def _execution(self) -> Execution | None:
        worker = current_worker()
        return None if worker is None else worker.execution

    # ------------------------------------------------------------------ who

    def get_job_id(self) -> str:
        """The driver of this cluster."""
        return str(self._home.info["driver"].hex())

    def get_node_id(self) -> str:
        """The node this process belongs to."""
        return str(self._home.node.hex())

    def get_node_labels(self) -> dict[str, str]:
        """The labels of that node: those given to `init`, and its id as ``ray.io/node-id``."""
        return dict(self._home.info["labels"])

    def get_worker_id(self) -> str:
        """The process."""
        return str(self._home.id.hex())

    def get_task_id(self) -> str | None:
        """The call that runs now; None outside of one."""
        running = self._home.running
        return None if running is None else running.id.hex()

    def get_task_name(self) -> str | None:
        """The name of the call that runs now: its option `name`, else what it runs."""
        running, execution = self._home.running, self._execution
        return None if running is None or execution is None else execution.title(running)

    def get_task_function_name(self) -> str | None:
        """The function or method that runs now, with its module."""
        running, execution = self._home.running, self._execution
        return None if running is None or execution is None else execution.function_name(running)

    def get_actor_id(self) -> str | None:
        """The actor this process runs; None when it runs none."""
        execution = self._execution
        return execution.actor_id.hex() if execution is not None and execution.actor_id else None

    def get_actor_name(self) -> str | None:
        """The name of this actor, "" if it has none; None outside of actors."""
        execution = self._execution
        if execution is None or not execution.actor_id:
            return None
        return str(execution.facts.get("name", ""))

    @property
    def current_actor(self) -> ActorHandle:
        """A handle of the actor this process runs; RuntimeError outside of actors.

        A handle like any other: an actor that holds on to one of itself does not end when the
        others are gone.
        """
        execution = self._execution
        if execution is None or not execution.actor_id:
            raise RuntimeError("current_actor is for methods of actors; this code runs outside")
        return handle_of_self(execution)

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor has been restarted; False outside of actors."""
        execution = self._execution
        return execution is not None and execution.restarts > 0

    def is_canceled(self) -> bool:
        """Whether somebody has called `engine.cancel` on the call that runs now.

        A method of an actor that takes long asks from time to time, and ends early; whatever it
        returns then, its caller gets TaskCancelledError. RuntimeError outside of a call, and in an
        actor with checkpoints that is not `replayable=True`: replayed, the method would wait for
        a cancellation that does not come again.
        """
        home = self._home
        running = home.running
        if running is None:
            raise RuntimeError("is_canceled() is for the code of tasks and actor methods")
        if home.event is not None:
            return bool(home.event(lambda: running.id in home.cancelled))
        worker = current_worker()
        if worker is not None and worker.replay is not None and worker.replay.checkpoints:
            raise RuntimeError(
                "is_canceled() in an actor with checkpoint_every: what it says may differ in a "
                "replay. Add replayable=True to the actor's options, which notes it."
            )
        return running.id in home.cancelled

    @property
    def namespace(self) -> str:
        """Where named actors of this driver live."""
        return str(self._home.info["namespace"])

    # ------------------------------------------------------------------ with what

    def get_assigned_resources(self) -> dict[str, float]:
        """What this task or actor was given; by default {"CPU": 1.0} for tasks, {} for actors."""
        execution = self._execution
        return {} if execution is None else dict(execution.assigned.resources)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The devices of this task or actor by resource: {"GPU": ["0", "2"]}."""
        execution = self._execution
        return {"GPU": [] if execution is None else list(execution.assigned.devices or ())}

    def get_placement_group_id(self) -> str | None:
        """The placement group in which this task or actor runs; None outside of one."""
        execution = self._execution
        group = b"" if execution is None else execution.assigned.group
        return group.hex() or None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether work submitted from here goes into the same placement group."""
        return bool(self._home.scope.group)

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The runtime environment of this process; in a driver, the one given to `init`."""
        found = RuntimeEnv()
        # Checked when it was given.
        found.update(said_by_user(self._home.scope.environment))
        return found

    def get_runtime_env_string(self) -> str:
        """`runtime_env` as JSON."""
        return json.dumps(said_by_user(self._home.scope.environment), sort_keys=True)

    def __repr__(self) -> str:
        return f"RuntimeContext(worker={self.get_worker_id()}, task={self.get_task_id()})"


def get_runtime_context() -> RuntimeContext:
    """The context of the calling code."""
    return RuntimeContext(runtime())


def get_gpu_ids() -> list[int] | list[str]:
    """The GPUs of this task or actor: numbers, or names where CUDA_VISIBLE_DEVICES has names.

    Empty in a driver and where num_gpus was not asked for.
    """
    ids = get_runtime_context().get_accelerator_ids()["GPU"]
    return list(map(int, ids)) if all(one.isdecimal() for one in ids) else ids
