"""What workers print, on its way from their descriptors 1 and 2 to their driver and to who asks.

Each worker is forked with two pipes in place of the node's own output. So whatever writes there is
heard: Python, C code, a child, the fault handler of a crash, and what a worker wrote just before
SIGKILL, since a pipe outlives its writer. Nothing is written to disk. A worker works for one driver
all its life, and that one shows its lines; when it has left, they are only kept for who asks.

Nothing grows: of each pipe at most one piece is on its way to the driver, and all those of one
driver together fill a window at most. Beyond that the node leaves the bytes where they are, the
pipe fills, and who prints waits. Only what the dead leave in their pipes cannot wait; what is too
much of it is counted, and the count is shown.

A line is labelled with what its worker runs when the node reads it, moments after it was written;
when tasks of less than a millisecond follow each other, that may be the next one.
"""

from __future__ import annotations

import fcntl
import os
import termios
from collections import OrderedDict, deque
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.core.control import Log, LogShown
from engine.core.logs import STDERR, STDOUT, LineCutter, Tail, last_words, size_of
from engine.runtime.reactor import Reactor

if TYPE_CHECKING:
    from engine.config import Config
    from engine.runtime.notebook import Notebook

__all__ = ["WorkerLogs"]

_READ = 64 << 10
_WORD_CHARACTERS_MAX = 300
# What a dead worker counts for beside its lines.
_SOURCE_BYTES = 1_000


class _Listener:
    """A driver: whether it shows lines, and what is on its way to it."""

    __slots__ = ("driver", "held", "held_bytes", "in_flight", "listening", "lost")

    def __init__(self, driver: bytes) -> None:
        self.driver = driver
        self.listening = False
        self.in_flight = 0
        self.held: deque[Log] = deque()  # last lines of dead workers that found no room
        self.held_bytes = 0
        self.lost = 0


class _Source:
    """A worker that prints, or printed. `notebook` is its page while it lives."""

    __slots__ = ("listener", "notebook", "pid", "process", "tail", "title")

    def __init__(self, process: bytes, tail: Tail, listener: _Listener) -> None:
        self.process = process
        self.listener = listener
        self.pid = 0
        self.notebook: Notebook | None = None
        self.title = ""
        self.tail = tail

    def look(self) -> str:
        """What it runs now, or ran last."""
        if self.notebook is not None:
            self.title = self.notebook.title
        return self.title


class _Pipe:
    """One end of one stream; `busy` while a piece of it is on its way to the driver."""

    __slots__ = ("busy", "cutter", "fd", "resting", "source", "stream", "until")

    def __init__(self, fd: int, source: _Source, stream: int, cutter: LineCutter) -> None:
        self.fd = fd
        self.source = source
        self.stream = stream
        self.cutter = cutter
        self.busy = False
        self.resting = False  # not watched: until a time, for the driver, or for room
        self.until = 0.0


class WorkerLogs:
    """The pipes of one node's workers, and their last lines."""

    def __init__(
        self, reactor: Reactor, config: Config, forward: Callable[[bytes, Log], None]
    ) -> None:
        self._reactor = reactor
        self._config = config
        self._forward = forward
        self.ending = False  # no more workers will come: what is left in pipes is bounded
        self._pipes: dict[tuple[bytes, int], _Pipe] = {}
        self._resting: list[_Pipe] = []
        self._listeners: dict[bytes, _Listener] = {}
        self._live: dict[bytes, _Source] = {}
        self._dead: OrderedDict[bytes, _Source] = OrderedDict()
        self._dead_bytes = 0

    # ------------------------------------------------------------------ workers

    def open(self, process: bytes, driver: bytes) -> tuple[int, int]:
        """Pipes for a worker about to be forked; returns the ends that it writes to."""
        config = self._config
        listener = self._listeners.get(driver) or _Listener(driver)
        source = self._live[process] = _Source(process, Tail(config.log_kept_bytes), listener)
        ends = []
        for stream in (STDOUT, STDERR):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            cutter = LineCutter(config.log_line_bytes_max)
            pipe = self._pipes[process, stream] = _Pipe(reader, source, stream, cutter)
            self._watch(pipe)
            ends.append(writer)
        return ends[0], ends[1]

    def met(self, process: bytes, pid: int, notebook: Notebook | None) -> None:
        """The worker is there: its pid and, sooner or later, its page."""
        source = self._live[process]
        source.pid, source.notebook = pid, notebook or source.notebook

    def on_died(self, process: bytes) -> list[str]:
        """A worker is dead: read what it left. Returns its last words on stderr."""
        source = self._live.pop(process, None)
        if source is None:
            return []
        title = source.look()
        source.notebook = None
        for stream in (STDOUT, STDERR):
            pipe = self._pipes.get((process, stream))
            if pipe is not None:
                self._drain(pipe)
        if source.tail.lines or any((process, one) in self._pipes for one in (STDOUT, STDERR)):
            self._bury(source)
        config = self._config
        words = source.tail.read(STDERR, title)
        return last_words(words, config.log_error_lines, _WORD_CHARACTERS_MAX)

    def _bury(self, source: _Source) -> None:
        self._dead[source.process] = source
        self._dead_bytes += source.tail.nbytes + _SOURCE_BYTES
        while self._dead_bytes > self._config.log_kept_bytes_dead:
            _process, oldest = self._dead.popitem(last=False)
            self._dead_bytes -= oldest.tail.nbytes + _SOURCE_BYTES

    # ------------------------------------------------------------------ reading

    def _watch(self, pipe: _Pipe) -> None:
        self._reactor.watch(pipe.fd, lambda: self._on_readable(pipe))

    def _full(self, listener: _Listener) -> bool:
        return listener.listening and listener.in_flight >= self._config.log_window_bytes

    def _on_readable(self, pipe: _Pipe) -> None:
        self._reactor.unwatch(pipe.fd)
        pipe.resting = True
        pipe.until = perf_counter() + self._config.log_pace_seconds
        self._resting.append(pipe)
        if not self._full(pipe.source.listener):
            self._read(pipe, _READ)
        self._reactor.look_at(pipe.until)

    def _read(self, pipe: _Pipe, size: int) -> None:
        try:
            data = os.read(pipe.fd, size)
        except BlockingIOError:  # somebody holds the other end and has written nothing more
            return
        if len(data) == _READ:  # enough has gathered
            pipe.until = 0.0
        if data:
            self._publish(pipe, pipe.cutter.feed(data))
        else:
            self._publish(pipe, pipe.cutter.end())
            self._close(pipe)

    def _drain(self, pipe: _Pipe) -> None:
        """Read all that is in the pipe of a dead worker. A child of it may go on writing."""
        waiting = fcntl.ioctl(pipe.fd, termios.FIONREAD, bytes(4))
        self._read(pipe, max(1, int.from_bytes(waiting, "little")))
        if pipe.fd >= 0:
            self._read(pipe, _READ)  # its end, as a rule
        if pipe.fd >= 0:
            self._publish(pipe, pipe.cutter.end())

    def _close(self, pipe: _Pipe) -> None:
        if pipe.resting:
            self._resting.remove(pipe)
        else:
            self._reactor.unwatch(pipe.fd)
        os.close(pipe.fd)
        pipe.fd = -1
        del self._pipes[pipe.source.process, pipe.stream]

    def _publish(self, pipe: _Pipe, lines: list[str]) -> None:
        if not lines:
            return
        source = pipe.source
        title = source.look()
        kept = source.tail.nbytes
        source.tail.add(pipe.stream, title, lines)
        if source.process in self._dead:
            self._dead_bytes += source.tail.nbytes - kept
        listener = source.listener
        if not listener.listening:
            return
        log = Log(source.process, source.pid, title, pipe.stream, lines)
        if not self._full(listener) and not listener.held:
            pipe.busy = True
            self._send(listener, log)
        elif listener.held_bytes < self._config.log_kept_bytes_dead or self.ending:
            listener.held.append(log)
            listener.held_bytes += size_of(lines)
        else:
            listener.lost += len(lines)

    # ------------------------------------------------------------------ the drivers

    def listen(self, driver: bytes, listening: bool) -> None:
        """A driver has come; whether it shows the lines of its workers."""
        listener = self._listeners.setdefault(driver, _Listener(driver))
        listener.listening = listening

    def _send(self, listener: _Listener, log: Log) -> None:
        listener.in_flight += size_of(log.lines)
        self._forward(listener.driver, log)

    def on_shown(self, driver: bytes, message: LogShown) -> None:
        """A driver has shown a piece: there is room again."""
        listener = self._listeners.get(driver)
        if listener is None:
            return
        listener.in_flight -= message.nbytes
        pipe = self._pipes.get((message.process, message.stream))
        if pipe is not None:
            pipe.busy = False
        while listener.held and not self._full(listener):
            log = listener.held.popleft()
            listener.held_bytes -= size_of(log.lines)
            self._send(listener, log)
        if listener.lost and not self._full(listener):
            text = f"{listener.lost:,} lines of workers that ended are not shown: this stood still"
            listener.lost = 0
            self._send(listener, Log(b"", os.getpid(), "penstock", STDERR, [text]))
        self._reactor.look_at(perf_counter())

    def stop_forwarding(self, driver: bytes) -> None:
        """A driver is gone; what its workers print from now on is kept for who asks."""
        listener = self._listeners.pop(driver, None)
        if listener is None:
            return
        listener.listening = False
        listener.in_flight = listener.held_bytes = listener.lost = 0
        listener.held.clear()
        for pipe in self._pipes.values():
            if pipe.source.listener is listener:
                pipe.busy = False
        self._reactor.look_at(perf_counter())

    @property
    def quiet(self) -> bool:
        """Whether the drivers have shown everything that was sent or held for them."""
        return all(map(self.quiet_for, self._listeners))

    def quiet_for(self, driver: bytes) -> bool:
        """Whether one driver has shown everything that was sent or held for it."""
        one = self._listeners.get(driver)
        return one is None or not (one.listening and (one.in_flight or one.held))

    def tick(self, now: float) -> float | None:
        """Read on where time and room allow; returns the time of the next look."""
        following = None
        resting, self._resting = self._resting, []
        for pipe in resting:
            if pipe.busy or self._full(pipe.source.listener):  # `on_shown` will look at it
                self._resting.append(pipe)
            elif pipe.until > now:
                self._resting.append(pipe)
                following = pipe.until if following is None else min(following, pipe.until)
            else:
                pipe.resting = False
                self._watch(pipe)
        return following

    # ------------------------------------------------------------------ who asks

    def sources(self) -> list[dict[str, Any]]:
        """One record a worker of which lines are kept, dead ones first."""
        return [
            {
                "worker_id": source.process.hex(),
                "pid": source.pid,
                "name": source.look(),
                "alive": process in self._live,
                "lines": source.tail.lines,
                "bytes_kept": source.tail.nbytes,
            }
            for process, source in [*self._dead.items(), *self._live.items()]
        ]

    def _catch_up(self, source: _Source) -> None:
        """Read what has come while the pipes rested: who asks has perhaps just seen the result."""
        for stream in (STDOUT, STDERR):
            pipe = self._pipes.get((source.process, stream))
            if pipe is not None and not self._full(source.listener):
                self._read(pipe, _READ)

    def select(
        self,
        *,
        pid: int | None,
        process: bytes | None,
        title: str | None,
        stream: int | None,
        tail: int,
    ) -> list[str]:
        """The last `tail` lines (-1: all kept) of a worker, or of all that ran `title`.

        KeyError with what there is when no such worker is known.
        """
        found = False
        lines: list[str] = []
        for source in [*self._dead.values(), *self._live.values()]:
            if pid in (None, source.pid) and process in (None, source.process):
                self._catch_up(source)
                mine = source.tail.read(stream, title)
                found = found or title is None or bool(mine)
                lines += mine
        if not found:
            known = ", ".join(
                f"{source.title or 'worker'} (pid {source.pid})" for source in self._live.values()
            )
            raise KeyError(known)
        lines = lines if tail < 0 else lines[max(0, len(lines) - tail) :]
        while size_of(lines) > self._config.frame_bytes_max // 8:
            lines = lines[len(lines) // 2 :]
        return lines
