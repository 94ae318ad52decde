"""What the owner of large results remembers of how they were made.

A small value lives with its owner and cannot be lost alone. A large one lies in a block, of memory
or of a file, and that can go: then the task that made it is run again, and what that task needs and
is no longer there is made first. For this the owner keeps a `Record` of each task with a result in
a block, as long as somebody refers to such a result, or to what was made from it.

What a task needs is kept in one of two ways. A large result that has a record of its own is given
up like any other when its last reference goes: it can be made again, so a chain of tasks costs no
memory but its records. All else (values that were put, arguments beside the references, small
values, references inside of arguments) could not be, and is *held* by a reference.

All of it fits into a budget in bytes: records, and what they hold, each value once. When it is
exceeded, the oldest record is forgotten, and its results are rebuilt no more. What is held moves to
disk as anything else; when there is no room either, it is given up before anybody is refused.

Pure: nothing but a book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.core.ids import short

if TYPE_CHECKING:
    from engine.core.dispatch import Task

__all__ = [
    "ARGUMENTS",
    "BOTH",
    "CROWDED_OUT",
    "DISABLED",
    "EVICTED",
    "GONE",
    "METHOD",
    "NO_RETRIES",
    "PUT",
    "SPENT",
    "STREAM",
    "Lineage",
    "Record",
]

# Why an object cannot be rebuilt: the end of the sentence "it cannot be rebuilt: ...".
PUT = "it was put, not computed. engine.put(value, durable=True) keeps a second copy"
ARGUMENTS = "it holds the large arguments of a call, which nobody has computed"
METHOD = (
    "it is the result of an actor's method, and to call that again would change the actor. Put "
    "what must last with engine.put(value, durable=True)"
)
STREAM = (
    "it is an item of a generator, of which there is no telling what it yields if it runs again. "
    "Put what must last with engine.put(value, durable=True)"
)
BOTH = "it was put with durable=True, and both copies of it are lost"
NO_RETRIES = "the task that made it has max_retries=0, so it is never run again"
SPENT = "the task that made it has used up its max_retries; raise it for more tries"
EVICTED = (
    "how it was made is forgotten, because lineage_bytes_max of engine.config.Config is exceeded"
)
CROWDED_OUT = (
    "how it was made is forgotten, because memory and disk were full and its task's arguments took "
    "room there"
)
DISABLED = "lineage_bytes_max of engine.config.Config is 0, which switches lineage off"
GONE = "an argument of the task that made it was released, and cannot be computed again"

# What a record takes in memory besides its arguments, about: task, call, ids, tables.
_RECORD_BYTES = 1500
# A value held takes at most this share of the budget: it must not drive out all that is there.
_HELD_SHARE = 4


class Record:
    """A task that can be run again. `needs` are the objects that it must find."""

    __slots__ = ("deps", "forgotten", "held", "hold", "live", "loose", "makers", "nbytes", "needs",
                 "rerun", "task", "users")

    def __init__(self, task: Task, deps: list[bytes] | None, nbytes: int) -> None:
        self.task = task
        self.deps = deps
        self.nbytes = nbytes
        self.needs: list[bytes] = []
        self.makers: list[Record] = []  # of what it needs and does not hold
        self.held: list[bytes] = []
        self.hold: list[Any] = []  # references to those
        self.loose: set[bytes] = set()  # needs that are neither: they may be gone
        self.live: set[bytes] = set()  # its results that have references
        self.users = 0  # records that count on it
        self.rerun: Task | None = None  # under way
        self.forgotten: str | None = None  # why, once it is


class Lineage:
    """The records of one process, within `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        # By object: what made it, or why it cannot be rebuilt. Objects that are not here were put.
        self.known: dict[bytes, Record | str] = {}
        self._records: dict[bytes, Record] = {}  # by task, the oldest first
        self._held: dict[bytes, list[int]] = {}  # by object: records that hold it, its size
        self.evicted = 0  # records, ever

    # ------------------------------------------------------------------ keeping

    def keep(
        self,
        task: Task,
        deps: list[bytes] | None,
        live: set[bytes],
        needs: dict[bytes, tuple[Any, int]],
        nbytes: int,
    ) -> None:
        """A task has ended, and its results `live` lie in blocks.

        `needs` has a reference to each object that it needs, and its size (-1: not to be held,
        whatever becomes of it). `nbytes` is the size of its arguments.
        """
        if not task.retries or not self.limit:
            why = DISABLED if task.retries else SPENT if task.attempts else NO_RETRIES
            self._remove(task.id, why)
            self.known.update(dict.fromkeys(live, why))
            return
        unused: list[Record] = []
        record = self._records.pop(task.id, None)
        if record is None:
            record = Record(task, deps, 0)
        else:  # it has run again: those who count on it go on to do so
            unused = self._let_go(record)
        self._records[task.id] = record
        record.task, record.deps, record.live = task, deps, record.live | live
        record.nbytes = nbytes + _RECORD_BYTES
        self.nbytes += record.nbytes
        record.needs = list(needs)
        for object_id, (ref, size) in needs.items():
            maker = self.known.get(object_id)
            if type(maker) is Record and maker is not record:
                maker.users += 1
                record.makers.append(maker)
            elif size < 0 or size * _HELD_SHARE > self.limit:
                record.loose.add(object_id)
            else:
                self._hold(record, object_id, ref, size)
        self.known.update(dict.fromkeys(record.live, record))
        for maker in unused:
            if not (maker.users or maker.live):
                self._remove(maker.task.id, "")
        while self.nbytes > self.limit:
            self.evicted += 1
            self._remove(next(iter(self._records)), EVICTED)

    def _hold(self, record: Record, object_id: bytes, ref: Any, size: int) -> None:
        record.held.append(object_id)
        record.hold.append(ref)
        count = self._held.get(object_id)
        if count is None:
            self._held[object_id] = [1, size]
            self.nbytes += size
        else:
            count[0] += 1

    def note(self, object_id: bytes, why: str) -> None:
        """An object in a block that cannot be rebuilt, and why."""
        self.known[object_id] = why

    # ------------------------------------------------------------------ asking

    def record_of(self, object_id: bytes) -> Record | None:
        """What has made an object and can do it again, if there is such a task."""
        found = self.known.get(object_id)
        return found if type(found) is Record else None

    def why_not(self, object_id: bytes) -> str:
        """Why an object without a record cannot be rebuilt."""
        found = self.known.get(object_id, PUT)
        return found if type(found) is str else ""

    def why_needs_are_missing(self, record: Record, object_id: bytes) -> str:
        """Why a need without a value and without a record cannot be rebuilt."""
        for maker in record.makers:
            if maker.forgotten and object_id in maker.task.returns:
                name = record.task.name
                return f"{name} takes {short(object_id)}, which is gone, and {maker.forgotten}"
        return f"{GONE} ({record.task.name} takes {short(object_id)})"

    def revive(self, object_id: bytes, record: Record) -> None:
        """A result that nobody referred to is wanted again."""
        record.live.add(object_id)

    # ------------------------------------------------------------------ forgetting

    def give_up(self, nbytes: int) -> None:
        """Memory and disk are full: no longer hold values of so many bytes in all."""
        enough = sum(size for _count, size in self._held.values()) - nbytes
        for record in list(self._records.values()):
            if sum(size for _count, size in self._held.values()) <= max(0, enough):
                break
            if record.held:
                self.evicted += 1
                self._remove(record.task.id, CROWDED_OUT)

    def forget(self, object_id: bytes) -> None:
        """Nobody refers to an object any more."""
        found = self.known.get(object_id)
        if isinstance(found, str):
            del self.known[object_id]
        elif found is not None:
            found.live.discard(object_id)
            if not found.live and not found.users:
                self._remove(found.task.id, "")

    def _remove(self, task_id: bytes, why: str) -> None:
        """Forget a record, and those that only it has counted on; a loop, chains are long."""
        first = self._records.get(task_id)
        gone = [] if first is None else [first]
        while gone:
            record = gone.pop()
            record.forgotten = why
            del self._records[record.task.id]
            for object_id in record.task.returns:
                if self.known.get(object_id) is record:
                    del self.known[object_id]
                    if object_id in record.live and why:
                        self.known[object_id] = why
            why = ""  # the others have no results that are referred to
            gone += self._let_go(record)

    def _let_go(self, record: Record) -> list[Record]:
        """Hold and count on nothing any more; returns the records that nobody needs now."""
        self.nbytes -= record.nbytes
        for object_id in record.held:
            count = self._held[object_id]
            count[0] -= 1
            if not count[0]:
                self.nbytes -= count[1]
                del self._held[object_id]
        unused = []
        for maker in record.makers:
            maker.users -= 1
            if not (maker.users or maker.live) and maker.forgotten is None:
                unused.append(maker)
        record.held, record.hold, record.makers, record.loose = [], [], [], set()
        return unused
