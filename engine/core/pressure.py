"""Who gets shared memory when there is not enough: asking, spilling, waiting, refusing.

A request that does not fit makes memory *short*. Everybody is told, gives up what is free, says
how much of its objects could go to disk, and goes on giving up what becomes free until told that
memory is eased. If that is not enough, the processes with the most to spill are asked to. Requests
are granted in order of arrival.

A request says how long it can do without. `AT_ONCE` never waits. `IF_SOON` (a new value, which can
be written to disk instead) waits while there is hope: while something is being spilled, can be, or
has become free a moment ago. `AT_ALL` waits for its full time, since it has no other way.

Nobody who waits here holds anything that others wait for, except values being looked at and calls
being run; those that read values never come here.

Pure: effects leave through the `StoreEdge`; time comes in as an argument.
"""

from __future__ import annotations

from engine.config import Config
from engine.core.control import MemoryEased, ReleaseSegments, SegmentsReturned
from engine.core.store import SegmentBook, StoreEdge

__all__ = ["AT_ALL", "AT_ONCE", "IF_SOON", "Pressure", "spill_batch"]

AT_ONCE, IF_SOON, AT_ALL = range(3)
# While requests wait, everybody is asked again this often: a reference that dies in a process
# whose code runs long is noticed only then.
_ASK_SECONDS = 0.05
# A process that does not answer for so long (stopped, or in a long C call) is not counted on.
_ANSWER_SECONDS = 1.0
_PAGE = 4096
_NAMED = 5  # holders named in an error


def spill_batch(config: Config, limit: int) -> int:
    """Bytes that are spilled at a time at least, if there are as many: the next request is near."""
    return min(config.spill_batch_bytes, limit // 8)


class _Request:
    __slots__ = ("hurry", "number", "process", "since", "size", "wish")

    def __init__(
        self, process: bytes, number: int, size: int, wish: int, hurry: int, since: float
    ) -> None:
        self.process = process
        self.number = number
        self.size = size
        self.wish = wish
        self.hurry = hurry
        self.since = since


class _Member:
    """What a process has said since memory became short."""

    __slots__ = ("asked", "pinned", "since", "spillable", "spilling", "trouble")

    def __init__(self) -> None:
        self.asked = 0  # the question that it has not answered
        self.since = 0.0
        self.forget()

    def forget(self) -> None:
        self.spillable = 0
        self.spilling = 0
        self.pinned = 0
        self.trouble = ""


class Pressure:
    """Requests for segments of a book of memory."""

    def __init__(self, book: SegmentBook, edge: StoreEdge, config: Config) -> None:
        self._book = book
        self._edge = edge
        self._config = config
        self._queue: list[_Request] = []  # each process waits for one at a time
        self._members: dict[bytes, _Member] = {}
        self._short = False
        self._progress = 0.0  # when memory last became free or was granted
        self._stuck = False  # there was no hope, and nothing has become free since
        self._next_ask = 0.0
        self._questions = 0

    def on_request(
        self, process: bytes, number: int, size: int, wish: int, hurry: int, now: float
    ) -> None:
        """A process wants a segment of at least `size` bytes, better of `wish`."""
        request = _Request(process, number, size, wish, hurry, now)
        if not self._queue and self._grant(request):
            return
        if hurry == AT_ONCE or size > self._book.limit:
            self._refuse(request)
            return
        self._queue.append(request)
        if not self._short:
            self._short = True
            self._progress = now
            self._ask(now)
        self._step(now)

    def on_withdrawn(self, process: bytes, number: int, now: float) -> None:
        """A process needs the memory no longer. Answered unless it was granted already."""
        for request in self._queue:
            if request.process == process and request.number == number:
                self._queue.remove(request)
                self._edge.refuse(process, number, "withdrawn")
                self._step(now)
                return

    def on_report(self, process: bytes, message: SegmentsReturned, now: float) -> None:
        """A process gives memory up, or says how it stands."""
        before = self._book.used
        self._book.give_back(message.segments, message.shrunk)
        if self._book.used < before:
            self._progress, self._stuck = now, False
        member = self._members.get(process)
        if member is not None:
            if message.answer == member.asked:
                member.asked = 0
            if not member.asked:
                member.spillable = message.spillable
                member.spilling = message.spilling
                member.pinned = message.pinned
                member.trouble = message.trouble
        self._step(now)

    def on_died(self, process: bytes, now: float) -> None:
        """A process is gone, and the book knows."""
        self._queue = [one for one in self._queue if one.process != process]
        self._members.pop(process, None)
        self._step(now)

    def tick(self, now: float) -> float | None:
        """Ask again, and give up on what has waited long enough; the time of the next look."""
        if self._queue and now >= self._next_ask:
            self._ask(now)
        self._step(now)
        return self._next_ask if self._queue else None

    # ------------------------------------------------------------------ deciding

    def _ask(self, now: float) -> None:
        self._next_ask = now + _ASK_SECONDS
        missing = self._missing()
        for process in self._edge.members():
            member = self._members.setdefault(process, _Member())
            if not member.asked:
                self._tell(process, member, missing, 0, now)

    def _tell(
        self, process: bytes, member: _Member, missing: int, spill: int, now: float
    ) -> None:
        self._questions += 1
        member.asked, member.since = self._questions, now
        self._edge.send(process, ReleaseSegments(self._questions, missing, spill))

    def _missing(self) -> int:
        wanted = sum(request.size for request in self._queue)
        return max(0, min(wanted, self._book.limit) - (self._book.limit - self._book.used))

    def _step(self, now: float) -> None:
        while self._queue and self._grant(self._queue[0]):
            del self._queue[0]
            self._progress, self._stuck = now, False
        if self._queue:
            self._spill(now)
            hope = self._hope(now)
            for request in list(self._queue):
                # Not the difference of the two times, which rounding may leave below the limit.
                late = now >= request.since + self._config.store_wait_seconds
                if late or (request.hurry == IF_SOON and not hope):
                    self._queue.remove(request)
                    self._refuse(request)
        if not self._queue and self._short:
            self._short = False
            for process, member in self._members.items():
                self._edge.send(process, MemoryEased())
                member.forget()

    def _grant(self, request: _Request) -> bool:
        free = self._book.limit - self._book.used
        if request.size > free:
            return False
        size = max(request.size, min(request.wish, free) // _PAGE * _PAGE)
        segment = self._book.lease(request.process, size)
        self._edge.attach(request.process, request.number, segment, size)
        return True

    def _spill(self, now: float) -> None:
        """Have as much spilled as is missing, and more if that is little."""
        missing = self._missing() - sum(one.spilling for one in self._members.values())
        if missing <= 0:
            return
        wanted = max(missing, spill_batch(self._config, self._book.limit))
        able = sorted(self._members.items(), key=lambda item: -item[1].spillable)
        for process, member in able:
            if wanted <= 0:
                return
            if member.spillable and not member.asked and not member.spilling:
                amount = min(wanted, member.spillable)
                wanted -= amount
                member.spilling, member.spillable = amount, 0
                self._tell(process, member, self._missing(), amount, now)

    def _hope(self, now: float) -> bool:
        """Whether it is worth waiting for memory."""
        for member in self._members.values():
            silent = member.asked and now - member.since >= _ANSWER_SECONDS
            able = member.spillable and not member.trouble  # else it has just failed
            if not silent and (member.asked or member.spilling or able):
                return True
        if not self._stuck:
            self._stuck = now - self._progress >= self._config.store_patience_seconds
        return not self._stuck

    # ------------------------------------------------------------------ refusing

    def _refuse(self, request: _Request) -> None:
        book, title = self._book, self._edge.title
        holders = [f"{title(one)} holds {held:,}" for one, held in book.holders().items()]
        text = (
            f"{request.size:,} bytes do not fit into the object store: {book.used:,} of "
            f"{book.limit:,} bytes are in use ({', '.join(holders[:_NAMED]) or 'by nobody'}). "
        )
        if request.size <= book.limit:
            text += self._obstacles() + " "
        text += (
            "Release references to large objects and arrays obtained from get(), or start with "
            "a larger engine.init(object_store_memory=...)."
        )
        self._edge.refuse(request.process, request.number, text)

    def _obstacles(self) -> str:
        """Why nothing more can be moved to disk."""
        members = sorted(self._members.items(), key=lambda item: -item[1].pinned)
        for _process, member in members:
            if member.trouble:
                return f"Nothing more can be moved to disk: {member.trouble}."
        pinned = [
            f"{member.pinned:,} of {self._edge.title(process)}"
            for process, member in members[:_NAMED]
            if member.pinned
        ]
        return (
            "Not to be moved to disk, because arrays made from them are alive, or calls that take "
            f"them are under way: {', '.join(pinned) or 'no objects that are known'}."
        )
