"""Members of topologies in processes: slow, stubborn, broken. Light on imports."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

import engine
from engine.topology import External, Member, MemberContext

__all__ = ["Blocked", "Broken", "Commits", "Counter", "Referring", "Sums", "Unpicklable"]


class Counter(Member):
    """A source: one number every `pause` seconds, until there is a file `stop`."""

    def __init__(self, stop: Path, pause: float = 0.001) -> None:
        self.stop, self.pause = stop, pause
        self.next = 0

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx

    def poll(self) -> bool:
        if self.stop.exists():
            self.ctx.finish()
            return True
        self.ctx.emit(pa.record_batch({"n": [self.next]}))
        self.next += 1
        self.ctx.wake_after(self.pause)
        return False

    def snapshot(self) -> int:
        return self.next

    def restore(self, state: int) -> None:
        self.next = state

    def close(self) -> int:
        return self.next


class Sums(Member):
    """Adds up what comes; the result says how many that were."""

    def __init__(self) -> None:
        self.count = self.total = 0

    def open(self, ctx: MemberContext) -> None:
        self.ctx = ctx

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        self.count += 1
        self.total += value["n"][0].as_py()

    def snapshot(self) -> Any:
        self.ctx.hand_over(self.count)
        return self.count, self.total

    def restore(self, state: Any) -> None:
        self.count, self.total = state

    def close(self) -> Any:
        return self.count, self.total


class Blocked(Sums):
    """Sits in its code for a while when the first number comes."""

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        if not self.count:
            time.sleep(1.0)
        super().on_batch(port, value, meta, sender)


class Broken(Sums):
    """Raises at the hundredth number."""

    def on_batch(self, port: str, value: Any, meta: Any, sender: int) -> None:
        if self.count == 100:
            raise LookupError("number one hundred")
        super().on_batch(port, value, meta, sender)


class Referring(Sums):
    """Has a result that does not outlive the run."""

    def close(self) -> Any:
        return engine.put(self.count)


class Unpicklable(Sums):
    """Has a state that no file can hold."""

    def snapshot(self) -> Any:
        return threading.Lock()


class Commits(External):
    """Keeps tokens; raises when told to."""

    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.fail = False

    def commit(self, tokens: Sequence[Any]) -> None:
        if self.fail:
            raise ConnectionError("the outside does not answer")
        self.tokens += tokens
