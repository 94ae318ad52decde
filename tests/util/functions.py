"""Functions that pools run, importable in workers of the standard library too."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE: dict[str, Any] = {}


class Odd(Exception):
    """Its constructor does not fit its args."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


def square(x: int) -> int:
    return x * x


def add(x: int, y: int = 10) -> int:
    return x + y


def inverse(x: float) -> float:
    return 1 / x


def fails_at_three(x: int) -> int:
    if x == 3:
        raise LookupError("three")
    return x


def odd(x: int) -> int:
    raise Odd(x, "detail")


def lock(_x: int) -> Any:
    return threading.Lock()


def pid(_x: Any = None) -> int:
    return os.getpid()


def die(_x: Any = None) -> None:
    os._exit(7)


def remember(name: str, value: Any) -> None:
    STATE[name] = value


def recall(name: str) -> Any:
    return STATE.get(name)


def broken_initializer() -> None:
    raise OSError("no such device")


def wait_for(path: str) -> str:
    """Returns when the file exists; fails after a while, so that a broken pool does not hang."""
    deadline = time.monotonic() + 20
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise AssertionError(f"nobody made {path}")
        time.sleep(0.002)
    return path


def touch(path: str) -> str:
    Path(path).touch()
    return path


def touch_or_wait(job: tuple[str, str]) -> str:
    """One function for both, so that they may come to lie in one batch."""
    what, path = job
    if what == "wait":
        return wait_for(path)
    return touch(path) if what == "touch" else what


def counted(limit: int, seen: list[int]) -> Iterator[int]:
    for number in range(limit):
        seen.append(number)
        yield number


def failing_iterable() -> Iterator[int]:
    yield 1
    yield 2
    raise KeyError("the iterable")
