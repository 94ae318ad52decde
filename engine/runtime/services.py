"""What the node answers to a `Request`: segments, names, resources and reasons."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.core.control import Request
from engine.core.spill import SPILL_STATISTICS
from engine.runtime.groups import GroupServices
from engine.runtime.inventory import Inventory

if TYPE_CHECKING:
    from engine.runtime.node import Node

__all__ = ["Services"]


class Services:
    """Handlers by name; each takes the asking process, the request's number and its arguments."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.groups = GroupServices(node)
        self.inventory = Inventory(node)
        self._handlers: dict[str, Callable[..., None]] = {
            "segment": node.store.segment,
            "withdraw": node.store.withdraw,
            "disk": node.store.disk_segment,
            "map": node.store.map,
            "reserve_name": self._reserve_name,
            "find_actor": self._find_actor,
            "list_named": self._list_named,
            "preload": self._preload,
            "stop": self._stop,
            "gather": self.inventory.gather,
            "resources": self._resources,
            "nodes": self._nodes,
            "state": self.inventory.answer,
            "why": self._why,
            "logs": self._logs,
            "log": self._log,
            **self.groups.handlers,
            **node.journal.handlers,
        }

    def on_request(self, peer: bytes, message: Request) -> None:
        """Answer a request; an unknown one is an error of ours and says so to the asker."""
        handler = self._handlers.get(message.what)
        if handler is None:
            self._fail(peer, message.number, "EngineError", f"unknown request {message.what!r}")
        else:
            handler(peer, message.number, **message.args)

    def _fail(self, peer: bytes, number: int, kind: str, text: str) -> None:
        self._node.reply(peer, number, {"kind": kind}, text)

    # ------------------------------------------------------------------ names

    def _reserve_name(
        self, peer: bytes, number: int, namespace: str, name: str, actor: bytes,
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        holder = self._node.head.reserve(namespace, name, actor, options)
        self._node.reply(peer, number, holder)

    def _find_actor(self, peer: bytes, number: int, namespace: str, name: str) -> None:
        found = self._node.head.find(namespace, name)
        if found is None:
            names = sorted(one for space, one in self._node.head.names if space == namespace)
            text = (
                f"no actor named {name!r} lives in namespace {namespace!r}; "
                f"there are: {', '.join(names) or 'none'}"
            )
            others = sorted(space for space, one in self._node.head.names if one == name)
            if others:
                text += f". One lives in {', '.join(map(repr, others))}: pass namespace="
            self._fail(peer, number, "ValueError", text)
            return
        actor, options = found
        self._node.reply(peer, number, {"id": actor, "options": options})

    def _list_named(self, peer: bytes, number: int) -> None:
        names = [{"namespace": space, "name": name} for space, name in self._node.head.names]
        self._node.reply(peer, number, names)

    # ------------------------------------------------------------------ state

    def _preload(self, peer: bytes, number: int, modules: list[str]) -> None:
        self._node.preload(modules)
        self._node.reply(peer, number, None)

    def _stop(self, peer: bytes, number: int) -> None:
        """The node ends, and with it all that runs on it; the asker sees it by its line."""
        self._node.stopping = self._node.stopping or "it was told to"

    def _amounts(self) -> dict[str, dict[str, float]]:
        amounts = self._node.machine.pool.statistics()
        for one in amounts.values():  # nobody reserves any of it, so all is available
            one["object_store_memory"] = float(self._node.store.memory.limit)
        return amounts

    def _resources(self, peer: bytes, number: int) -> None:
        self._node.reply(peer, number, self._amounts())

    def _why(self, peer: bytes, number: int, of: bytes, shape: bytes) -> None:
        self._node.reply(peer, number, self._node.machine.reasons.of(of, shape))

    def _nodes(self, peer: bytes, number: int) -> None:
        """Answered when every process has said what it has spilled."""
        node, now = self._node, perf_counter()

        def reply(found: list[dict[str, int]], _silent: list[bytes]) -> None:
            record = {
                "NodeID": node.id.hex(),
                "Alive": True,
                "Labels": node.labels(),
                "Resources": self._amounts()["total"],
                **node.store.statistics(),
            }
            for name in SPILL_STATISTICS:
                record[name] = sum(one[name] for one in found)
            node.reply(peer, number, [record])

        node.gatherings.ask("spilled", node.members(), now, reply)
        following = node.gatherings.tick(now)
        if following is not None:
            node.reactor.look_at(following)

    def _logs(self, peer: bytes, number: int) -> None:
        self._node.reply(peer, number, self._node.logs.sources())

    def _log(
        self,
        peer: bytes,
        number: int,
        pid: int | None,
        actor: bytes | None,
        title: str | None,
        stream: int | None,
        tail: int,
    ) -> None:
        process = None
        if actor is not None:
            record = self._node.head.actors.get(actor)
            process = record.process if record is not None else b""
        try:
            lines = self._node.logs.select(
                pid=pid, process=process, title=title, stream=stream, tail=tail
            )
        except KeyError as error:
            asked = pid or title or f"actor {(actor or b'').hex()}"
            text = f"nothing is kept of {asked}; workers that live: {error.args[0] or 'none'}"
            self._fail(peer, number, "ValueError", text)
        else:
            self._node.reply(peer, number, lines)
