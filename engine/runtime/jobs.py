"""The drivers of a node: the one that it belongs to, or those that come to a standing one and go.

What a driver has begun ends with it: its tasks, its actors but for detached ones, its objects. The
node and other drivers' work go on. A driver that leaves in order is heard out, as an embedded one
is: its line is closed when all that its workers printed is shown.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import deque
from pathlib import Path
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from engine.core.control import Join, Stop, Welcome, WorkerDied
from engine.core.environments import decode_environment, encode_environment, job_of
from engine.core.ids import owner_of
from engine.runtime.door import Door

if TYPE_CHECKING:
    from engine.runtime.node import Node

__all__ = ["Job", "Jobs"]

# Drivers that have ended, as far as they are told of.
_ENDED_KEPT = 1_000


class Job:
    """A driver and what is known of it. An observer only looks, and is not told of."""

    __slots__ = ("cause", "ended", "entrypoint", "id", "observer", "peers", "pid", "started")

    def __init__(self, driver: bytes, pid: int, observer: bool = False) -> None:
        self.id = driver
        self.pid = pid
        self.observer = observer
        self.peers: set[bytes] = set()
        self.started = time()
        self.ended = 0.0
        self.cause = ""
        self.entrypoint = ""
        with contextlib.suppress(psutil.Error):  # it has just ended
            process = psutil.Process(pid)
            self.entrypoint = " ".join(process.cmdline())
            self.started = process.create_time()


class Jobs:
    """Who a node works for."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.embedded: bytes = node.start["driver"]  # the only one, whose node this is; or b""
        self.all: dict[bytes, Job] = {}
        self.ended: deque[Job] = deque(maxlen=_ENDED_KEPT)
        self._leaving: dict[bytes, list[bytes]] = {}  # and its workers, which have to be gone first
        self._door: Door | None = None

    def begin(self, line: socket.socket) -> None:
        """Be there for the driver at the other end, or for all that come."""
        node, start = self._node, self._node.start
        if self.embedded:
            pid = start["driver_pid"]
            self.all[self.embedded] = Job(self.embedded, pid)
            node.add(self.embedded, "driver", line, pid)
            node.watch_pid(self.embedded)
            node.logs.listen(self.embedded, False)  # its workers are forked before it says hello
            node.machine.roster.start(start["environment"], int(start["prestart"]))
            return
        signal.signal(signal.SIGTERM, lambda *_: self._stop_node("SIGTERM"))
        directory = Path(start["directory"])
        self._door = Door(node, directory)
        os.umask(0o077)
        node.journal.open(directory)
        line.sendall(msgspec.msgpack.encode({"node": node.id, "pid": os.getpid()}))
        line.close()

    def _stop_node(self, reason: str) -> None:
        self._node.stopping = self._node.stopping or reason
        self._node.reactor.kick()

    def close(self) -> None:
        """The node ends."""
        self._node.journal.close()
        if self._door is not None:
            self._door.close()

    # ------------------------------------------------------------------ who works for whom

    def of(self, process: bytes) -> bytes:
        """The driver that a live process works for, or that it is."""
        return process if process in self.all else self.of_environment(
            self._node.environment_of(process)
        )

    def of_environment(self, environment: bytes) -> bytes:
        """The driver whose work runs in an environment."""
        found: bytes = job_of(environment).get("id", self.embedded)
        return found

    def facts(self, environment: bytes) -> dict[str, Any]:
        """What a process is told of its driver."""
        job, start = job_of(environment), self._node.start
        if not job:
            known = {"driver": self.embedded, "namespace": start["namespace"]}
            return known | {"config": start["config"]}
        config = {**start["config"], "on_full": job["on_full"]}
        return {"driver": job["id"], "namespace": job["namespace"], "config": config}

    # ------------------------------------------------------------------ coming

    def on_join(self, peer: bytes, message: Join) -> None:
        """Somebody who was let in says what it is."""
        node = self._node
        record = node.become(peer, "driver")
        job = self.all[peer] = Job(peer, record.pid, message.observer)
        job.peers = record.peers
        facts = {
            "id": peer,
            "namespace": message.namespace,
            "path": message.path,
            "directory": message.directory,
            "on_full": message.on_full,
        }
        environment = {**decode_environment(message.environment), "job": facts}
        record.environment = encoded = encode_environment(environment)
        info = node.welcome(encoded) | {"environment": encoded}
        node.send(peer, Welcome(node.id, info))
        if message.observer:
            return
        node.logs.listen(peer, message.log_to_driver)
        node.start["preload"] += message.preload
        roster = node.machine.roster
        roster.favour(encoded)
        roster.start(encoded, int(node.start["prestart"]))

    # ------------------------------------------------------------------ going

    def on_stop(self, peer: bytes, message: Stop) -> None:
        """A driver leaves. With the one that it belongs to, the node ends."""
        node = self._node
        if peer == self.embedded:
            node.stopping = message.reason or "the driver shut the engine down"
        elif peer in self.all:
            node.become(peer, "leaving")
            self._leaving[peer] = self._end(peer, "ended")
            self.look()

    def is_leaving(self, peer: bytes) -> bool:
        """Whether a driver has said that it leaves: nothing that it says counts any more."""
        return peer in self._leaving

    def on_gone(self, driver: bytes, cause: str) -> None:
        """A driver is dead, or has closed its line."""
        node = self._node
        node.logs.stop_forwarding(driver)
        if driver == self.embedded:
            node.stopping = node.stopping or f"its driver {cause}"
        elif self._leaving.pop(driver, None) is None and driver in self.all:
            self._end(driver, cause)

    def look(self) -> None:
        """Close the lines of drivers that leave and have been shown everything."""
        node = self._node
        for driver, workers in list(self._leaving.items()):
            workers[:] = [one for one in workers if node.has(one)]
            if not workers and node.logs.quiet_for(driver):
                node.part(driver)

    def _end(self, driver: bytes, cause: str) -> list[bytes]:
        """End all that a driver has begun, and returns the workers that have to die for it."""
        node, now = self._node, perf_counter()
        job = self.all.pop(driver)
        job.cause, job.ended = cause, time()
        if not job.observer:
            self.ended.append(job)
        workers = [one for one in node.machine.workers if self._rests_on(driver, one)]
        for worker in workers:
            node.kill(worker, f"was killed: its driver (pid {job.pid}) {cause}")
        node.machine.on_died(driver, now)
        node.mourn(WorkerDied(driver, job.pid, cause), now, job.peers)
        node.machine.roster.disown(lambda one: job_of(one).get("id") == driver)
        return workers

    def _rests_on(self, driver: bytes, process: bytes) -> bool:
        """Whether a worker is at work for a driver, with no detached actor in between."""
        machine, head = self._node.machine, self._node.head
        while process != driver:
            worker = machine.workers.get(process)
            if worker is None or not worker.owner:
                return False
            process = worker.owner
            if worker.use == "actor":
                record = head.actors[worker.owner]
                if record.create.options.get("lifetime") == "detached":
                    return False
                process = owner_of(worker.owner)
        return True

    def tick(self, now: float) -> float | None:
        """Time has passed; returns when to look again."""
        return None if self._door is None else self._door.tick(now)
