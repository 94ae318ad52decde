"""What must hold at the end of a run, and what may excuse an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.core.ids import short
from engine.core.objects import Entry
from engine.core.pending import pending_reason
from tests.sim.member import Failure, Violation
from tests.sim.tasks import ANY, Expect

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.process import Process
    from tests.sim.world import World

__all__ = ["error_is_excused", "nothing_is_left", "story"]

# Errors that some death must have caused.
_OF_DEATHS = {
    *("ObjectFreedError", "ObjectLostError", "OwnerDiedError"),
}
# Errors that cancelling what something was made from explains (by force, a worker dies).
_OF_CANCELS = {"TaskCancelledError", "WorkerCrashedError"}
# Errors that an actor may hand out from where nobody can say.
_LOOSE = {*_OF_CANCELS, "UserError", "TaskPlacementGroupRemoved"}


def error_is_excused(world: World, expect: Expect, error: Failure) -> None:
    """Raise Violation unless something that happened explains this error."""
    kind, text = error.kind, error.text
    closure = expect.closure()
    loose = any(one.value == ANY for one in closure)  # it may have come from anywhere
    if loose and kind in _LOOSE:
        good = True
    elif kind == "UserError":
        good = any(one.label == text for one in closure) or (
            world.deaths > 0 and text in world.workload.labels
        )
    elif any(one.cancelled for one in closure) and kind in _OF_CANCELS:
        good = True
    elif kind == "ObjectReconstructionFailedError":
        good = world.values_lost()
    elif kind == "WorkerCrashedError" and world.values_lost():
        good = world.deaths > 0  # the retries may have gone into making it again
    elif kind == "WorkerCrashedError":
        limit = world.config.restart_deaths_max
        good = any(
            count + world.raised[task] >= min(world.retries[task] % (1 << 30) + 1, limit)
            for task, count in world.exposed.items()
        )
    elif kind == "ObjectStoreFullError":  # else there is always room on disk
        on, huge = world.faults.on, "a value larger than the store"
        disk = on["little disk"] or on["disk errors"]
        good = on["little memory"] and (disk or bool(world.marks[huge]))
    elif kind == "OutOfDiskError":
        good = world.faults.on["disk errors"]
    elif kind == "TaskPlacementGroupRemoved":
        good = any(one.removed for one in closure)
    elif kind == "NodeDiedError":
        good = not world.node.alive
    elif kind in ("ActorDiedError", "ActorUnavailableError"):
        failing = any(one.value is None for one in closure)  # of its constructor, perhaps
        good = world.deaths > 0 or world.workload.actors_ended or failing
        good = good or "an argument of its constructor" in text  # which is looked at by itself
        # An actor that has ended, as it should, takes those with it that it has made.
        good = good or ("its creator (pid" in text and world.actors_ended > 0)
    else:
        good = kind in _OF_DEATHS and (
            world.deaths + world.actors_ended > 0 or not world.node.alive
        )
    if not good:
        raise Violation(f"nothing explains this error: {kind}: {text}")
    world.mark("an error: " + kind)


def value_is_right(world: World, expect: Expect, value: int) -> None:
    """Raise Violation unless this is what the run without faults gives."""
    if expect.value is None:
        raise Violation(f"{value} came where an error must: {[o.label for o in expect.closure()]}")
    if expect.value not in (ANY, value):
        raise Violation(f"{value} is not the {expect.value} of a run without faults")
    world.mark("a value")


def nothing_is_left(world: World) -> None:
    """The census after a run: no object, no lease, no wait, no block."""
    processes = [world.driver] if world.node.alive else []
    for process in [*processes, *world.workers()]:
        left = _left_in_process(process)
        if left:
            raise Violation(f"left in {world.name(process.id)}: {left}")
    for node in world.nodes():
        left = _left_in_node(world, node)
        if left:
            raise Violation(f"left in {world.name(node.id)}: {left}")


def _left_in_process(process: Process) -> dict[str, Any]:
    owner = process.owner
    process.drain()
    spill, values = owner.spill, process.values
    tables: dict[str, Any] = {
        "objects": {
            short(one): f"{entry.local} local, borrowed by {_names(process.world, entry)}"
            for one, entry in owner.objects.entries.items()
        },
        "unsettled": owner.objects.unsettled,
        "messages that wait for registrations": owner.objects._after,
        "farewells": owner.objects.farewells,
        "leases": owner.dispatch.leases,
        "queued tasks": [len(shape.pending) for shape in owner.dispatch.shapes() if shape.pending],
        "leases wanted": [s.requested for s in owner.dispatch.shapes() if s.requested],
        "streams": owner.streams.streams,
        "actor calls": [
            (client.name, client.state)
            for client in owner.callers.actors.values()
            if client.in_flight or client.queue
        ],
        "unfinished calls": owner.unfinished,
        "unfinished bytes": owner.unfinished_bytes,
        "connecting": process._connecting,
        "promised": process.promised,
        "answers": process.replies or process.abandoned,
        "references": process.escaped,
        "orders of actors": owner.callers.logs,
        "references of checkpoints": owner._checkpoint_refs,
        "questions about orders": owner.callers._asks,
        "actors that have ended": owner.callers._ended,
        "objects with blocks": spill.held,
        "uses": spill.uses,
        "objects kept in memory for their owners": spill._refused,
        "objects on their way": spill._moving or process.spilling.jobs,
        "bytes in memory": spill.resident,
        "lineage": owner.objects.lineage._records or owner.objects.lineage.known,
        "bytes of lineage": owner.objects.lineage.nbytes,
        "memory is short": spill.short or values.missing,
        "waiting for memory": values.waiters,
        "parts of values": values.pieces,
        "blocks": _blocks(process),
    }
    if process.kind == "worker":
        for name in ("unsettled", "parts", "consumed", "queue"):
            tables["worker's " + name] = getattr(process, name)
    return {name: table for name, table in tables.items() if table}


def _blocks(process: Process) -> list[Any]:
    """Blocks that nobody freed, except those of owners that died: nobody can know about them."""
    left = []
    for block in process.values.live():
        owner = process.values.owners.get(block)  # none: it was never written
        if owner is None or process.world.is_reachable(owner):
            left.append(block)
        else:
            process.world.mark("a block outlives its owner")
    return left


def _names(world: World, entry: Entry) -> dict[str, int]:
    return {
        world.name(one) + ("" if world.is_alive(one) else " (dead)"): count
        for one, count in (entry.borrowers or {}).items()
    }


def _left_in_node(world: World, node: Node) -> dict[str, Any]:
    machine = node.machine
    segments = node.store._segments | node.disk._segments
    holders = {
        key: segment.holder.hex()
        for key, segment in segments.items()
        if world.holder_is_gone(segment.holder, key)
    }
    charged = [
        sum(one.charged for one in book._segments.values()) for book in (node.store, node.disk)
    ]
    tables: dict[str, Any] = {
        "resources taken": machine.pool.free != machine.pool.total and machine.pool.free,
        "leased workers": [w.pid for w in machine.workers.values() if w.use],
        "workers to come": machine.roster.starting,
        "demands": machine.demands,
        "groups": machine.groups.all or node.waiting_groups,
        "actors": {a.hex(): r.state for a, r in node.head.actors.items() if r.state != "dead"},
        "early lookups": node.head._early,
        "places of actors": node.head._by_process,
        "names": node.head.names,
        "checkpoints": node.checkpoints,
        "segments of nobody": holders,
        "segments that no book has": [one for one in node.segments if one not in segments],
        "books that do not add up": charged != [node.store.used, node.disk.used] and charged,
        "requests for memory": node.pressure._queue,
        "memory is short": node.pressure._short,
        "gatherings": node.gatherings._open,
    }
    return {name: table for name, table in tables.items() if table}


def story(world: World, seed: int, error: BaseException) -> str:
    """Everything there is to say about a failure."""
    on = ", ".join(kind for kind, yes in world.faults.on.items() if yes) or "none"
    tail = "\n".join([*world.network.tail(40), *map(_state, [world.driver, *world.workers()])])
    return (
        f"seed {seed} failed at {world.clock.now * 1e3:.3f} ms: {error}\n"
        f"faults drawn: {on}; until {world.faults.until * 1e3:.0f} ms; {world.cpus} CPUs\n{tail}\n"
        f"seed {seed}: {error}"
    )


def _state(process: Any) -> str:
    """What a process is at, for people."""
    doing = "computes" if process._busy else "waits" if process._waiting else "has ended"
    line = f"{process.world.name(process.id)} {doing}"
    if process.kind == "worker":
        running = process.running[1] if process.running else None
        line += f", runs {running!r}"[:200] + f", has {len(process.queue)} queued"
    pending = [one for one, entry in process.owner.objects.entries.items() if entry.value is None]
    reasons = "; ".join(pending_reason(process.owner, one) for one in pending[:5])
    return f"{line}; pending: {reasons}"
