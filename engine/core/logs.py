"""Lines that workers print: cut out of bytes, kept for later, shown once when many repeat them.

The node cuts (`LineCutter`) and keeps (`Tail`), the driver drops repetitions (`Repeats`). Pure:
bytes and time come in as arguments, lines go out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

__all__ = [
    "STDERR",
    "STDOUT",
    "Line",
    "LineCutter",
    "Repeats",
    "Tail",
    "last_words",
    "prefix",
    "quote",
    "size_of",
]

STDOUT, STDERR = 1, 2  # as descriptors
# Lines whose repetitions are counted at a time; more make the oldest ones be told early.
_REPEATS_MAX = 1_000
# How `faulthandler` begins: what killed the process stands right below, not at the very end.
_FATAL = "Fatal Python error"
_OWN_FRAMES = "/engine/runtime/"


def prefix(name: str, pid: int) -> str:
    """What stands before a worker's line: "(name pid=1234)"."""
    return f"({name} pid={pid})" if name else f"(pid={pid})"


class LineCutter:
    """Cuts the bytes of one stream into lines of at most `limit` bytes.

    A longer line is cut visibly. Of a line that was overwritten by carriage returns (a progress
    bar) the last state counts, as on a terminal, so that it neither grows nor floods.
    """

    __slots__ = ("_dropped", "_limit", "_rest", "_returned")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._dropped = 0  # bytes of the unfinished line above the limit
        self._returned = False  # it ends with a carriage return: what follows overwrites it

    def feed(self, data: bytes) -> list[str]:
        """The lines that these bytes complete."""
        if b"\n" not in data:
            self._gather(data)
            return []
        first, *whole = data.split(b"\n")
        self._gather(first)
        lines = [self._take()]
        rest = whole.pop()
        for line in whole:
            if len(line) <= self._limit and b"\r" not in line:
                lines.append(line.decode("utf-8", "backslashreplace"))
            else:
                self._gather(line)
                lines.append(self._take())
        self._gather(rest)
        return lines

    def end(self) -> list[str]:
        """The stream has ended: its unfinished line, if there is one."""
        return [self._take()] if self._rest else []

    def _gather(self, part: bytes) -> None:
        if not part:
            return
        body = part.rstrip(b"\r")
        if body:
            _before, found, after = body.rpartition(b"\r")
            if found or self._returned:
                self._rest, self._dropped = b"", 0
            room = self._limit - len(self._rest)
            self._rest += after[:room]
            self._dropped += max(0, len(after) - room)
        self._returned = len(body) < len(part)

    def _take(self) -> str:
        text = self._rest.decode("utf-8", "backslashreplace")
        if self._dropped:
            text += f" ... [{self._dropped:,} more bytes were cut off]"
        self._rest, self._dropped, self._returned = b"", 0, False
        return text


class Tail:
    """The last lines of one process, about `limit` bytes of them."""

    __slots__ = ("_chunks", "_limit", "lines", "nbytes")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: deque[tuple[int, str, list[str], int]] = deque()
        self.nbytes = 0  # kept
        self.lines = 0  # ever written

    def add(self, stream: int, title: str, lines: list[str]) -> None:
        """Lines that the process wrote to `stream` while `title` ran."""
        nbytes = size_of(lines)
        self._chunks.append((stream, title, lines, nbytes))
        self.nbytes += nbytes
        self.lines += len(lines)
        while self.nbytes - self._chunks[0][3] >= self._limit:
            self.nbytes -= self._chunks.popleft()[3]

    def read(self, stream: int | None = None, title: str | None = None) -> list[str]:
        """The lines kept, of one stream or title if asked for."""
        return [
            line
            for number, name, lines, _nbytes in self._chunks
            if stream in (None, number) and title in (None, name)
            for line in lines
        ]


def size_of(lines: list[str]) -> int:
    """What lines count for against limits: characters and ends."""
    return sum(map(len, lines)) + len(lines)


def last_words(lines: list[str], limit: int, width: int) -> list[str]:
    """What a process last said on stderr, for the error that tells of its death.

    The last `limit` lines; of a crash that Python itself has reported (a segmentation fault) the
    first ones, which name the line of code, without the engine's own frames.
    """
    lines = [line for line in lines if line.strip()]
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith(_FATAL):
            lines = [line for line in lines[at:] if _OWN_FRAMES not in line][:limit]
            break
    return [line if len(line) <= width else line[:width] + " ..." for line in lines[-limit:]]


def quote(words: list[str]) -> str:
    """The last lines of a dead process as the end of an error's text."""
    return "".join(f"\n  {line}" for line in ["Its last lines on stderr:", *words] if words)


class Line(NamedTuple):
    """A line to show: its stream, whose it is, its text, and what is said about it."""

    stream: int
    name: str
    pid: int
    text: str
    note: str = ""


class _Repeat:
    """A line seen lately: by whom first, and how often by others since it was last shown."""

    __slots__ = ("count", "first", "last", "shared", "since", "workers")

    def __init__(self, since: float, pid: int) -> None:
        self.since = since
        self.first = self.last = pid
        self.shared = False  # several workers print it
        self.count = 0
        self.workers: set[int] = set()


class Repeats:
    """Shows a line that many workers print once, and then how often it came.

    The first is shown at once. Those of other workers within `seconds` are counted, and shown as
    one line with their number. A worker that repeats only itself is shown as it prints. Every line
    is either shown or counted; `seconds` = 0 shows all of them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._recent: OrderedDict[tuple[int, str, str], _Repeat] = OrderedDict()

    def feed(
        self, stream: int, name: str, pid: int, lines: Iterable[str], now: float
    ) -> list[Line]:
        """Lines of one worker; returns what is to be shown now."""
        shown = self.tick(now)
        recent = self._recent
        for text in lines:
            if not self._seconds or not text or text.isspace():
                shown.append(Line(stream, name, pid, text))
                continue
            key = stream, name, text
            seen = recent.get(key)
            if seen is None:
                recent[key] = _Repeat(now, pid)
                shown.append(Line(stream, name, pid, text))
                if len(recent) > _REPEATS_MAX:
                    shown += self._tell(*recent.popitem(last=False))
            elif seen.first == pid and not seen.shared:
                shown.append(Line(stream, name, pid, text))
            else:
                seen.shared = True
                seen.count += 1
                seen.last = pid
                seen.workers.add(pid)
        return shown

    def tick(self, now: float) -> list[Line]:
        """What has been counted for long enough."""
        shown: list[Line] = []
        while self._recent:
            key, oldest = next(iter(self._recent.items()))
            if oldest.since + self._seconds > now:
                break
            del self._recent[key]
            shown += self._tell(key, oldest)
            if oldest.count > 1:  # it goes on: the next ones are counted from the start
                following = self._recent[key] = _Repeat(now, oldest.last)
                following.shared = True
        return shown

    def flush(self) -> list[Line]:
        """Everything counted and not yet shown: nothing is lost at the end."""
        shown = [line for key, seen in self._recent.items() for line in self._tell(key, seen)]
        self._recent.clear()
        return shown

    def next_due(self) -> float | None:
        """When `tick` has something to say; None when nothing is being counted."""
        if not self._recent:
            return None
        return next(iter(self._recent.values())).since + self._seconds

    @staticmethod
    def _tell(key: tuple[int, str, str], seen: _Repeat) -> list[Line]:
        stream, name, text = key
        if not seen.count:
            return []
        if seen.count == 1:
            return [Line(stream, name, seen.last, text)]
        workers = f"{len(seen.workers)} worker{'s' if len(seen.workers) > 1 else ''}"
        return [Line(stream, name, seen.last, text, f" [repeated {seen.count}x across {workers}]")]
