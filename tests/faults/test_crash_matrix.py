"""Ways to die x moments to die in: every case has its error, soon, and nothing hangs.

After loky's table: a process crashes, exits, exits in C, or code raises; while arguments are
unpickled, while user code runs, while the result is pickled, or (in the caller) while arguments are
pickled or the result is unpickled. The caller is a worker, or the driver, where only raising can be
survived. Each for a task, a task in a task, and an actor's method.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import exceptions
from tests.engine.support import run_script

SECONDS = 20.0


class Boom(Exception):
    """What the ways that raise do raise."""


def crash() -> None:
    """A segmentation fault in C code."""
    faulthandler.disable()
    ctypes.string_at(0)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exits() -> None:
    sys.exit(3)


def c_exits() -> None:
    os._exit(4)


def raises() -> None:
    raise Boom("as planned")


DEADLY: dict[Callable[[], None], str] = {
    crash: "SIGSEGV",
    killed: "SIGKILL",
    exits: "exited with code 3",
    c_exits: "exited with code 4",
}


class InPickle:
    """Does it where it is pickled."""

    def __init__(self, way: Callable[[], None], pid: int) -> None:
        self.way = way
        self.pid = pid

    def __reduce__(self) -> Any:
        if os.getpid() != self.pid:
            self.way()
        return InPickle, (self.way, self.pid)


def _do(way: Callable[[], None], pid: int) -> str:
    if os.getpid() != pid:
        way()
    return "survived"


class InUnpickle:
    """Does it where it is unpickled, unless that is process `pid`."""

    def __init__(self, way: Callable[[], None], pid: int) -> None:
        self.way = way
        self.pid = pid

    def __reduce__(self) -> Any:
        return _do, (self.way, self.pid)


def ignore(_argument: Any) -> str:
    return "not reached"


def run(way: Callable[[], None]) -> str:
    way()
    return "not reached"


def give(way: Callable[[], None]) -> InPickle:
    return InPickle(way, -1)


# Moment -> (function, its argument for a way to die).
MOMENTS: dict[str, tuple[Callable[..., Any], Callable[[Any], Any]]] = {
    "unpickling": (ignore, lambda way: InUnpickle(way, os.getpid())),
    "running": (run, lambda way: way),
    "returning": (give, lambda way: way),
}


def call_with(way: Callable[[], None]) -> Any:
    """Dies while it pickles the arguments of a call of its own."""
    return engine.get(engine.remote(max_retries=0)(ignore).remote(InPickle(way, -1)))


def call_for(way: Callable[[], None], home: int) -> Any:
    """Dies while it unpickles the result of a call of its own."""
    return engine.get(engine.remote(max_retries=0)(bring).remote(way, home))


def bring(way: Callable[[], None], home: int) -> InUnpickle:
    return InUnpickle(way, home)


class InCall:
    """The argument of `call_for`: its result is harmless in the driver, not in the caller."""

    def __init__(self, way: Callable[[], None]) -> None:
        self.way, self.home = way, os.getpid()


def receive(argument: InCall) -> Any:
    return call_for(argument.way, argument.home)


# The same of a worker that is itself a caller.
MOMENTS |= {
    "pickling a call": (call_with, lambda way: way),
    "unpickling an answer": (receive, InCall),
}


@engine.remote(max_retries=0)
def outer(function: Any, make: Any, way: Any) -> Any:
    return engine.get(engine.remote(max_retries=0)(function).remote(make(way)))


@engine.remote
class Host:
    def call(self, function: Any, argument: Any) -> Any:
        return function(argument)


def as_task(function: Any, make: Any, way: Any) -> Any:
    return engine.remote(max_retries=0)(function).remote(make(way))


def as_nested(function: Any, make: Any, way: Any) -> Any:
    return outer.remote(function, make, way)


def as_method(function: Any, make: Any, way: Any) -> Any:
    return Host.remote().call.remote(function, make(way))


FORMS: list[Callable[..., Any]] = [as_task, as_nested, as_method]
Case = tuple[Callable[[], None], Callable[..., Any], str]


def deadly_cases() -> list[Case]:
    """Every way to end a process, in every form, at every moment."""
    return [(way, form, moment) for way in DEADLY for form in FORMS for moment in MOMENTS]


def raising_cases() -> list[Case]:
    """The same for code that raises."""
    return [(raises, form, moment) for form in FORMS for moment in MOMENTS]


def begin(way: Callable[[], None], form: Callable[..., Any], moment: str) -> Any:
    """Have it happen; a reference to what comes of it."""
    return form(*MOMENTS[moment], way)


def is_expected(error: Exception, way: Callable[[], None], form: Callable[..., Any]) -> bool:
    """Whether this error says what has happened."""
    if way is raises:
        kinds: tuple[type[Exception], ...] = (Boom, exceptions.SerializationError)
        return isinstance(error, kinds) and "as planned" in str(error)
    kind = exceptions.ActorDiedError if form is as_method else exceptions.WorkerCrashedError
    return isinstance(error, kind) and DEADLY[way] in str(error)


def name_of(one: Any) -> str:
    return one if isinstance(one, str) else one.__name__


@pytest.mark.parametrize(("way", "form", "moment"), deadly_cases(), ids=name_of)
def test_death_has_its_error(
    cluster: Any, way: Callable[[], None], form: Any, moment: str
) -> None:
    with pytest.raises(exceptions.EngineError) as caught:
        engine.get(begin(way, form, moment), timeout=SECONDS)
    assert is_expected(caught.value, way, form), caught.value


@pytest.mark.parametrize(("way", "form", "moment"), raising_cases(), ids=name_of)
def test_raising_has_its_error(
    cluster: Any, way: Callable[[], None], form: Any, moment: str
) -> None:
    with pytest.raises((Boom, exceptions.SerializationError)) as caught:
        engine.get(begin(way, form, moment), timeout=SECONDS)
    assert is_expected(caught.value, way, form), caught.value


def test_raising_while_arguments_are_pickled(cluster: Any) -> None:
    with pytest.raises(exceptions.SerializationError, match="as planned"):
        engine.remote(ignore).remote(InPickle(raises, -1))


def test_raising_while_the_result_is_unpickled(cluster: Any) -> None:
    ref = engine.remote(lambda: InUnpickle(raises, -1)).remote()
    with pytest.raises(Boom, match="as planned"):
        engine.get(ref, timeout=SECONDS)
    assert engine.get(engine.remote(abs).remote(-3), timeout=SECONDS) == 3


@pytest.mark.parametrize("way", ["os._exit(5)", "os.kill(os.getpid(), 9)", "ctypes.string_at(0)"])
def test_the_driver_dies_while_it_pickles(tmp_path: Path, leak_check: None, way: str) -> None:
    script = run_script(
        f"""
import ctypes, os
import engine
class Dies:
    def __reduce__(self):
        {way}
engine.init(num_cpus=2)
@engine.remote
def take(x): return x
engine.get(take.remote(1))
take.remote(Dies())
""",
        tmp_path,
    )
    assert script.wait(SECONDS) != 0
    assert script.stdout is not None
    script.stdout.close()
