"""Whether the engine runs in this process, and starting it when it does not."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.arguments import checked_labels, checked_namespace, refuse, set_up_logging
from engine.config import Config
from engine.core.control import Join
from engine.core.environments import encode_environment
from engine.exceptions import NodeDiedError
from engine.machine import resources_here
from engine.runtime import client, driver
from engine.runtime.address import ADDRESS, directory_of
from engine.runtime.client import Runtime
from engine.runtime.standing import observer
from engine.runtime.worker import current_worker
from engine.runtime_env import RuntimeEnv

__all__ = ["Context", "init", "is_initialized", "observe", "preload", "runtime", "shutdown"]


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
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    object_spilling_directory: str | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    ignore_reinit_error: bool = False,
    log_to_driver: bool = True,
    memory_limit: int | None = None,
    include_dashboard: bool | None = None,
    configure_logging: bool = True,
    logging_level: int | str | None = None,
    logging_format: str | None = None,
    on_full: str = "block",
    config: Config | None = None,
    **refused: Any,
) -> Context:
    """Start the engine on this machine, or connect to a node that stands: no TCP port either way.

    Started here, node and workers are this program's and end with it. A node that `penstock start
    --head` has started serves several programs. What one has begun (tasks, objects, actors) ends
    with it, but for actors with lifetime="detached" and what lies in a scope (`engine.detached`).

    From now on SIGTERM ends this process through its exit handlers, and so all that the engine has
    started (unless the program has a handler of its own for it).

    Args:
        address: "local" starts here. "auto" connects to the node of the variable ENGINE_ADDRESS,
            or else to the one that stands on this host; "unix:/its/directory" to the one there.
            ConnectionError when there is none, and for addresses of other hosts. None means
            ENGINE_ADDRESS if that is set, else "local". The arguments about resources, memory,
            labels and `config` are for a node that starts: a standing one has its own, and
            ValueError says so.
        num_cpus: logical CPUs, default those this process may use.
        num_gpus: GPUs, default those that CUDA_VISIBLE_DEVICES shows, or that the machine has.
            Tasks and actors see those that they were given (CUDA_VISIBLE_DEVICES is set for them);
            as in Ray, without num_gpus they see none. A process that was given some ends with the
            work that asked for them, so that their memory is free again.
        resources: further named resources; "memory" is in bytes, default what the object store
            leaves of the machine's.
        labels: labels of this node, for the options `label_selector` and `scheduling_strategy`.
        object_store_memory: bytes of shared memory at most, default 30 % of the machine's.
        object_spilling_directory: where objects go when that is full, into files without names;
            default the system's directory for temporary files. It should be on a disk. How much:
            `spilled_bytes_max` and `spilled_disk_share` of the config.
        namespace: where named actors and placement groups live, default "default", also that of
            several programs on one node.
        runtime_env: what tasks and actors run in unless they say otherwise; see
            `engine.runtime_env.RuntimeEnv`. The driver itself is left as it is.
        ignore_reinit_error: return the running engine instead of raising when there is one.
        log_to_driver: show what workers print on this process's stdout and stderr, each line with
            the name of what ran and its pid. `engine.state.get_log` has the last lines either way.
        memory_limit: bytes of memory of their own that the workers may hold together (the object
            store has its own limit). Above it, and in any case when the machine or its cgroup runs
            short, a worker is stopped, and its callers get OutOfMemoryError.
        include_dashboard: False or None; there is none. `engine.state`, `engine.timeline` and
            `penstock` on the command line show what it would.
        configure_logging: False leaves the logger "engine" as it is.
        logging_level: the level of that logger, default unchanged.
        logging_format: write its records to stderr in this format.
        on_full: what `.remote()` does while a process has its full budget of calls or bytes in
            flight: "block" until there is room, or "raise" SubmissionLimitExceeded. Holds for
            this process and for the workers; the option of the same name overrides it for one
            function or method.
        config: limits and time-outs (`engine.config.Config`).

    Raises RuntimeError when the engine already runs in this process, TypeError or ValueError for
    arguments that cannot be. Arguments of Ray that this engine does not have are refused with what
    to do instead.
    """
    if client.current() is not None:
        if ignore_reinit_error:
            return _context()
        raise RuntimeError(
            "the engine already runs in this process. Call engine.shutdown() first, or pass "
            "ignore_reinit_error=True."
        )
    refuse({**refused, "include_dashboard": include_dashboard})
    node = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "labels": labels,
        "object_store_memory": object_store_memory,
        "object_spilling_directory": object_spilling_directory,
        "memory_limit": memory_limit,
        "config": config,
    }
    environment = encode_environment(RuntimeEnv.of(runtime_env or {}))
    about = (checked_namespace(namespace), environment, bool(log_to_driver), on_full)
    standing = _standing(address)
    if standing is None:
        _start(node, *about)
    else:
        _join(standing, node, *about)
    if configure_logging:
        set_up_logging(logging_level, logging_format)
    return _context()


def _standing(address: str | None) -> Path | None:
    """The directory of the node that an address means; None for one that is to be started."""
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address={address!r}: expected a string or None")
    if address is None:
        address = os.environ.get(ADDRESS) or "local"
    return None if address == "local" else directory_of(address)


def _start(
    node: dict[str, Any], namespace: str, environment: bytes, log_to_driver: bool, on_full: str
) -> None:
    """Start a node of our own."""
    limits = _limits(node["config"], on_full)
    total, devices = resources_here(node["num_cpus"], node["num_gpus"], node["resources"])
    head = driver.begin(
        total,
        _store_memory(node["object_store_memory"]),
        _spill_directory(node["object_spilling_directory"]),
        namespace,
        list(_preloads),
        limits,
        devices=devices,
        labels=checked_labels(node["labels"]),
        environment=environment,
        log_to_driver=log_to_driver,
        memory_limit=_memory_limit(node["memory_limit"]),
    )
    driver.start(head, limits)


def _join(
    directory: Path,
    node: dict[str, Any],
    namespace: str,
    environment: bytes,
    log_to_driver: bool,
    on_full: str,
) -> None:
    """Connect to a node that stands; ValueError for what only one that starts can be given."""
    said = [name for name, value in node.items() if value is not None]
    if said:
        raise ValueError(
            f"init() connects to a node that stands, which has its own {', '.join(said)}: leave it "
            'out or give it to `penstock start`; init(address="local") starts a node of its own'
        )
    _limits(None, on_full)
    path, here = [os.path.abspath(one) for one in sys.path], os.getcwd()
    preloads = list(_preloads)
    about = Join(namespace, path, here, environment, preloads, log_to_driver, on_full, False)
    driver.join(directory, about)


def observe(address: str) -> None:
    """Connect to a standing node without being one of its drivers: to look, run nothing."""
    driver.join(directory_of(address), observer())


def _limits(config: Config | None, on_full: str) -> Config:
    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config={config!r}: expected an engine.config.Config")
    if on_full not in ("block", "raise"):
        raise ValueError(f"on_full={on_full!r}: expected 'block' or 'raise'")
    limits = config or Config()
    return limits if on_full == "block" else msgspec.structs.replace(limits, on_full=on_full)


def _memory_limit(given: int | None) -> int | None:
    if given is not None and (type(given) is not int or given < 1 << 20):
        raise ValueError(f"memory_limit={given!r}: expected bytes, at least 1 MiB")
    return given


def _store_memory(object_store_memory: int | None) -> int | None:
    if object_store_memory is not None and (
        isinstance(object_store_memory, bool)
        or not isinstance(object_store_memory, int)
        or object_store_memory < 1 << 20
    ):
        raise ValueError(
            f"object_store_memory={object_store_memory!r}: expected bytes, at least 1 MiB"
        )
    return object_store_memory


def _spill_directory(given: str | None) -> str:
    path = os.path.abspath(tempfile.gettempdir() if given is None else os.fspath(given))
    if not os.path.isdir(path) or not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(
            f"object_spilling_directory={given!r}: expected a directory that this process may "
            f"write to; {path} is none"
        )
    return path


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


def _context() -> Context:
    home = client.current()
    assert home is not None
    return Context(
        {
            "node_id": home.node.hex(),
            "resources": home.info["resources"],
            "labels": home.info["labels"],
            "namespace": home.info["namespace"],
            "driver_id": home.id.hex(),
        }
    )


def shutdown() -> None:
    """End every process that this driver started; waits for them. Idempotent.

    A driver that had connected to a standing node leaves it; the node and others' work go on.
    """
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
