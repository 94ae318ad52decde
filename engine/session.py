"""Whether the engine runs in this process, and starting it when it does not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from engine.config import Config
from engine.exceptions import NodeDiedError
from engine.runtime import client, driver
from engine.runtime.client import Runtime
from engine.runtime.worker import current_worker

__all__ = ["Context", "init", "is_initialized", "preload", "runtime", "shutdown"]


class Context(Mapping[str, Any]):
    """What `init` returns: facts about the engine, and a context manager that shuts it down."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def __getitem__(self, name: str) -> Any:
        return self._facts[name]

    def __iter__(self) -> Any:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_exc: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """The same as `engine.shutdown()`."""
        shutdown()

    def __repr__(self) -> str:
        return f"Context({self._facts})"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    object_store_memory: int | None = None,
    namespace: str = "default",
    ignore_reinit_error: bool = False,
    config: Config | None = None,
) -> Context:
    """Start the engine on this machine: a node process and warm workers, no TCP port.

    Args:
        address: None or "local" start here; "auto" connects to a running cluster and raises
            ConnectionError when there is none.
        num_cpus: logical CPUs, default those this process may use.
        num_gpus: logical GPUs, default 0.
        resources: further named resources.
        object_store_memory: bytes of shared memory at most, default 30 % of the machine's.
        namespace: where named actors live.
        ignore_reinit_error: return the running engine instead of raising when there is one.
        config: limits and time-outs (`engine.config.Config`).

    Raises RuntimeError when the engine already runs in this process.
    """
    if client.current() is not None:
        if ignore_reinit_error:
            return _context()
        raise RuntimeError(
            "the engine already runs in this process. Call engine.shutdown() first, or pass "
            "ignore_reinit_error=True."
        )
    if address not in (None, "local"):
        raise ConnectionError(
            f"no cluster answers at address={address!r}. Leave address out to run on this machine."
        )
    total = _amounts(num_cpus, num_gpus, resources)
    if object_store_memory is not None and object_store_memory < 1 << 20:
        raise ValueError(
            f"object_store_memory={object_store_memory!r}: expected bytes, at least 1 MiB"
        )
    driver.start(total, object_store_memory, namespace, list(_preloads), config or Config())
    return _context()


_preloads: list[str] = []


def preload(what: str) -> None:
    """Have processes started from now on find a module loaded.

    `what` is "module:function"; the function is called once in a process from which workers are
    forked, so it must start no threads. It runs beside the work; until it is done, workers start
    without it. Packages call this when they are imported, before or after `init`.
    """
    module, _, function = what.partition(":")
    if not module or not function:
        raise ValueError(f"preload({what!r}): expected 'module:function'")
    if current_worker() is not None or what in _preloads:
        return
    _preloads.append(what)
    home = client.current()
    if home is not None and home.node_alive:
        home.promise("preload", modules=[what])


def _amounts(
    num_cpus: float | None, num_gpus: float | None, resources: dict[str, float] | None
) -> dict[str, float]:
    total: dict[str, float] = {"CPU": float(len(os.sched_getaffinity(0)))}
    for name, label, amount in (("CPU", "num_cpus", num_cpus), ("GPU", "num_gpus", num_gpus)):
        if amount is None:
            continue
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
            raise ValueError(f"{label}={amount!r}: expected a number >= 0")
        total[name] = float(amount)
    for name, amount in (resources or {}).items():
        if name in ("CPU", "GPU"):
            raise ValueError(f"resources={{{name!r}: ...}}: use num_{name.lower()}s instead")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
            raise ValueError(f"resources={{{name!r}: {amount!r}}}: expected a number >= 0")
        total[name] = float(amount)
    return total


def _context() -> Context:
    home = client.current()
    assert home is not None
    return Context(
        {
            "node_id": home.node.hex(),
            "resources": home.info["resources"],
            "namespace": home.info["namespace"],
            "driver_id": home.id.hex(),
        }
    )


def shutdown() -> None:
    """End every process that this driver started; waits for them. Idempotent."""
    driver.stop()


def is_initialized() -> bool:
    """Whether the engine runs in this process (drivers after `init`, workers always)."""
    return client.current() is not None


def runtime() -> Runtime:
    """The runtime of this process, started when there is none."""
    home = client._current
    if home is None:
        init()
        home = client._current
        assert home is not None
    if not home.node_alive:
        raise NodeDiedError(
            "the node process of this engine is gone; call engine.shutdown() and engine.init()"
        )
    return home
