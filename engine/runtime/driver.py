"""The driver's side of an engine: starting and stopping one of its own, joining and leaving others.

`start` runs a node process as a child of this one and hands it one end of a socket pair: no port,
no socket file. The node ends by itself when the driver dies, however it dies. `join` goes to a node
that stands already (`runtime.standing`), which ends this driver's work when the driver is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import psutil

from engine.config import Config
from engine.core.control import Hello, Join, Stop, Welcome
from engine.exceptions import EngineError
from engine.runtime import client, termination
from engine.runtime.address import LOG, knock
from engine.runtime.client import Runtime
from engine.runtime.console import Console
from engine.runtime.environments import DEVICES
from engine.wire.connection import Connection, ConnectionClosed
from engine.wire.descriptors import raise_descriptor_limit

__all__ = ["Driver", "begin", "join", "spawn", "start", "stop"]

# The node runs the driver's interpreter with the driver's import path, so that workers can import
# whatever the driver can.
_BOOT = (
    "import json,sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from engine.runtime.boot import main; main(int(sys.argv[1]))"
)
_STORE_SHARE = 0.3  # of the machine's memory, as in Ray
_STORE_MIN = 75 << 20
_PRESTART_MAX = 64
# A node that has closed its line is about to exit.
_EXIT_SECONDS = 1.0
_driver: Driver | None = None


class Driver:
    """The runtime that talks to the node, and the node process if this driver has started it."""

    def __init__(
        self, runtime: Runtime, node: subprocess.Popen[bytes] | None, console: Console
    ) -> None:
        self.runtime = runtime
        self.node = node
        self.console = console
        self.pid = os.getpid()


def begin(
    resources: dict[str, float],
    object_store_memory: int | None,
    spill_directory: str,
    namespace: str,
    preload: list[str],
    config: Config,
    *,
    devices: list[str] | None = None,
    labels: dict[str, str] | None = None,
    environment: bytes = b"",
    log_to_driver: bool = True,
    memory_limit: int | None = None,
) -> dict[str, Any]:
    """What a node is told at its start; for a standing one, `directory` comes on top.

    `devices` names the GPUs among the resources; `environment` is what tasks and actors run in
    unless they say otherwise.
    """
    total = psutil.virtual_memory().total
    memory = object_store_memory or max(_STORE_MIN, int(total * _STORE_SHARE))
    left = float(max(0, total - memory))
    return {
        "config": msgspec.to_builtins(config),
        "resources": {"memory": left, **resources},
        "object_store_memory": memory,
        "spill_directory": spill_directory,
        "namespace": namespace,
        "devices": devices or [],
        "labels": labels or {},
        "environment": environment,
        "driver": b"",
        "driver_pid": 0,
        "preload": preload,
        "log_to_driver": log_to_driver,
        "memory_limit": memory_limit,
        "prestart": max(1, min(int(resources.get("CPU", 1)), _PRESTART_MAX)),
    }


def start(head: dict[str, Any], config: Config) -> Driver:
    """Start node and workers and connect. Raises EngineError when the node does not come up."""
    raise_descriptor_limit()  # it has one for each process that it calls, and the node inherits it
    process = secrets.token_bytes(8)
    head |= {"driver": process, "driver_pid": os.getpid()}
    node, mine = spawn(head, config.start_timeout_seconds)
    hello = Hello(process, os.getpid(), "driver")
    try:
        welcome, early, connection = _handshake(mine, hello, config)
    except (OSError, ConnectionClosed) as error:
        mine.close()
        node.kill()
        code = node.wait()
        raise EngineError(
            f"the node process did not start (exit code {code}): {error}. Its own messages are "
            "on stderr."
        ) from error
    runtime = Runtime(process, config, welcome.node, welcome.info, head["environment"])
    return _settle(_attach(runtime, node, node.pid, connection, early))


def join(directory: Path, about: Join) -> Driver:
    """Come to the node that stands in `directory`; ConnectionError when there is none."""
    raise_descriptor_limit()
    config = Config()
    sock, pid = knock(directory, config.start_timeout_seconds)
    try:
        welcome, early, connection = _handshake(sock, about, config)
    except (OSError, ConnectionClosed) as error:
        sock.close()
        raise ConnectionError(
            f"the node at unix:{directory} (pid {pid}) does not let this process in: {error}. Its "
            f"own messages are in {directory / LOG}."
        ) from error
    info = welcome.info
    config = msgspec.convert(info["config"], Config)
    runtime = Runtime(info["driver"], config, welcome.node, info, info["environment"])
    return _settle(_attach(runtime, None, pid, connection, early))


def _settle(driver: Driver) -> Driver:
    global _driver
    _driver = driver
    atexit.register(stop)
    termination.catch()
    return driver


def _attach(
    runtime: Runtime,
    node: subprocess.Popen[bytes] | None,
    pid: int,
    connection: Connection,
    early: list[Any],
) -> Driver:
    """Make it this process's runtime; `early` came with the node's welcome."""
    console = Console(runtime)
    runtime.unclaimed = console.on_message
    connection.peer = runtime.node
    connection.pid = pid
    runtime.attach(connection)
    client.set_current(runtime)
    with runtime.lock:
        runtime._on_messages(connection, early)
    runtime.reactor.start_service()
    return Driver(runtime, node, console)


def spawn(
    head: dict[str, Any], timeout: float, **popen: Any
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a node process and tell it how; returns it and our end of its line."""
    mine, theirs = socket.socketpair()
    path = json.dumps([os.path.abspath(one) for one in sys.path])
    command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), path]
    node = subprocess.Popen(
        command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
        env=_environment(), **popen,
    )  # fmt: skip
    theirs.close()
    mine.settimeout(timeout)
    told = msgspec.msgpack.encode(head)
    with contextlib.suppress(BrokenPipeError):  # it is dead; whoever waits for its word is told
        mine.sendall(len(told).to_bytes(4, "little") + told)
    return node, mine


def _environment() -> dict[str, str]:
    """What node and workers inherit: the driver's variables but for three."""
    # Work sees the devices that it was given; like in Ray, other work sees none.
    found = {**os.environ, DEVICES: ""}
    # One process a core: a thread pool in each would fight for the same cores. OpenBLAS and MKL
    # follow this variable too. Set here, since they read it when NumPy is imported.
    found.setdefault("OMP_NUM_THREADS", "1")
    # Milliseconds after which Arrow's allocator gives freed memory back; its own default is 10 or
    # 1000. What a stream retains for copies that come back alone is freed once an epoch, of a
    # second, and wanted again in the next: kept a little longer, it need not be cleared anew.
    found.setdefault("MIMALLOC_PURGE_DELAY", "5000")
    return found


def _handshake(
    sock: socket.socket, first: Hello | Join, config: Config
) -> tuple[Welcome, list[Any], Connection]:
    timeout = sock.gettimeout()
    connection = Connection(sock, b"", frame_max=config.frame_bytes_max, passing=True)
    connection.out.append(first)
    sock.settimeout(timeout)
    connection.flush()
    messages: list[Any] = []
    while not messages:
        messages = connection.receive_some()
    welcome, *early = messages
    assert isinstance(welcome, Welcome)
    sock.setblocking(False)
    return welcome, early, connection


def stop() -> None:
    """End every process that this driver has started, or its work on a standing node.

    Does nothing when there is none.
    """
    global _driver
    driver, _driver = _driver, None
    termination.release()
    if driver is None:
        return
    atexit.unregister(stop)
    if driver.pid != os.getpid():  # a fork of the driver: the engine is its parent's
        client.set_current(None)
        return
    runtime, node, console = driver.runtime, driver.node, driver.console
    if runtime.node_alive:
        with runtime.lock:
            runtime.send(runtime.node, Stop("the driver shut the engine down"))
            runtime.reactor.flush()
        _await_end(runtime, console)
    if node is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(_EXIT_SECONDS if not runtime.node_alive else 0.0)
        if node.poll() is None:
            node.send_signal(signal.SIGKILL)  # its workers go with it: the kernel sees to that
        node.wait()
    client.set_current(None)
    console.close()
    runtime.close()


def _await_end(runtime: Runtime, console: Console) -> None:
    """Hear the node out: it closes the line when all that worked for us is gone and has been shown.

    It is given up when it has not done so in time, unless what it has to say is still being
    printed: that takes as long as the reader of our streams wants it to.
    """
    while runtime.node_alive:
        shown = console.shown
        deadline = perf_counter() + runtime.config.stop_timeout_seconds
        runtime.reactor.wait_until(lambda: not runtime.node_alive, deadline)
        if not console.busy and console.shown == shown:
            return
