"""What workers printed, on the driver's own streams.

A thread of its own prints, so that a terminal that is slow, or stands still, holds up neither calls
nor messages; it starts with the first line. What it has shown it tells the node, which sends no
more than fits the window meanwhile (`runtime.logs`): the queue here is bounded by that. Lines go
through `sys.stdout` and `sys.stderr` as they are at that moment, so who captures those has them.
"""

from __future__ import annotations

import os
import sys
import threading
from itertools import groupby
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import TYPE_CHECKING, Any

from engine.core.control import Log, LogShown
from engine.core.logs import STDOUT, Line, Repeats, prefix, size_of

if TYPE_CHECKING:
    from engine.runtime.client import Runtime

__all__ = ["Console"]

_COLOUR, _PLAIN = "\033[36m", "\033[0m"


class Console:
    """Prints the lines of workers for one driver."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._repeats = Repeats(runtime.config.log_dedup_seconds)
        self._queue: SimpleQueue[Log | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.busy = False  # lines wait, or are being written
        self.shown = 0  # messages

    def on_message(self, peer: bytes, message: Any) -> None:
        """A message for the driver alone; under the runtime's lock."""
        if type(message) is not Log:
            raise AssertionError(f"a driver cannot handle {message!r}")
        self.busy = True
        self._queue.put(message)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engine-console", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Print what there is and end. Like `print`, this waits for who reads the stream."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        repeats = self._repeats
        while True:
            self.busy = not self._queue.empty()
            due = repeats.next_due()
            wait = None if due is None else max(0.0, due - perf_counter())
            try:
                log = self._queue.get(timeout=wait)
            except Empty:  # it is time to tell how often a line was repeated
                self._show(repeats.tick(perf_counter()))
                continue
            if log is None:
                self._show(repeats.flush())
                return
            self._show(repeats.feed(log.stream, log.name, log.pid, log.lines, perf_counter()))
            self.shown += 1
            runtime = self._runtime
            with runtime.lock:
                shown = LogShown(log.process, log.stream, size_of(log.lines))
                runtime.send(runtime.node, shown)
                runtime.reactor.flush()

    def _show(self, lines: list[Line]) -> None:
        for number, some in groupby(lines, key=lambda line: line.stream):
            stream = sys.stdout if number == STDOUT else sys.stderr
            if stream is None:  # a program without a terminal
                continue
            try:
                _write(stream, some)
            except (OSError, ValueError):
                # Closed, or nobody reads it any more. `engine.state.get_log` still has the lines.
                continue


def _write(stream: Any, lines: Any) -> None:
    colour = stream.isatty() and "NO_COLOR" not in os.environ
    heads: dict[tuple[str, int], str] = {}
    parts = []
    for line in lines:
        key = line.name, line.pid
        head = heads.get(key)
        if head is None:
            head = prefix(*key)
            head = heads[key] = f"{_COLOUR}{head}{_PLAIN}" if colour else head
        parts.append(f"{head} {line.text}{line.note}\n")
    text = "".join(parts)
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a stream of few characters: escapes instead of nothing
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
