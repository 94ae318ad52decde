"""Errors as values: the user's class, the remote traceback, and what cannot travel."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from engine import exceptions
from engine.exceptions import TaskError
from tests.engine.support import finished_script

SECONDS = 10.0


class TwoArguments(Exception):
    """An exception that pickle cannot rebuild from `args`."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class KeywordOnly(ValueError):
    """Needs a keyword to be made."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class WithSlots(Exception):
    """Keeps its data in slots."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class WithProperty(Exception):
    """Has a read-only property named like a field of TaskError."""

    @property
    def pid(self) -> int:
        return 1


class HostileText(Exception):
    """Its text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class HostileReduce(Exception):
    """Refuses to be pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("not with me")


class Explodes(Exception):
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise RuntimeError("unpickled")


@pytest.fixture
def raising(cluster: Any) -> Any:
    """`raising(make)`: the error that `get` raises when a task raises `make()`."""

    @cluster.remote(max_retries=0)
    def task(make: Any) -> None:
        raise make()

    def run(make: Any) -> BaseException:
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - the test looks at it
            cluster.get(task.remote(make), timeout=SECONDS)
        return caught.value

    return run


def test_it_is_both_the_users_class_and_a_task_error(raising: Any) -> None:
    error = raising(lambda: ZeroDivisionError("by zero"))
    assert isinstance(error, ZeroDivisionError)
    assert isinstance(error, TaskError)
    assert isinstance(error, exceptions.RayTaskError)
    assert isinstance(error.cause, ZeroDivisionError)
    assert type(error).__name__ == "TaskError(ZeroDivisionError)"


def test_the_remote_traceback_is_in_the_message(cluster: Any) -> None:
    @cluster.remote
    def outer() -> None:
        inner_name_in_traceback()

    def inner_name_in_traceback() -> None:
        {}["missing"]

    with pytest.raises(KeyError) as caught:
        cluster.get(outer.remote())
    text = str(caught.value)
    assert "inner_name_in_traceback" in text
    assert '{}["missing"]' in text
    assert "outer" in text
    assert "(pid " in text
    assert "engine/runtime" not in text, "frames of the engine are noise"


def test_a_chain_of_causes_is_in_the_message(cluster: Any) -> None:
    @cluster.remote
    def chained() -> None:
        try:
            int("x")
        except ValueError as error:
            raise RuntimeError("second") from error

    with pytest.raises(RuntimeError, match=r"(?s)invalid literal.*direct cause.*second"):
        cluster.get(chained.remote())


@pytest.mark.parametrize(
    ("make", "kind", "attributes"),
    [
        (lambda: TwoArguments(3, "x"), TwoArguments, {"code": 3, "detail": "x"}),
        (lambda: KeywordOnly(reason="why"), KeywordOnly, {"reason": "why"}),
        (lambda: WithSlots(4), WithSlots, {}),
        (lambda: OSError(errno.ENOENT, "none", "file"), FileNotFoundError,
         {"errno": errno.ENOENT, "strerror": "none", "filename": "file"}),
        (lambda: ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionResetError,
         {"errno": errno.ECONNRESET}),
        (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnicodeDecodeError, {}),
        (lambda: StopIteration(5), StopIteration, {}),
        (lambda: ExceptionGroup("several", [ValueError(1), KeyError(2)]), ExceptionGroup, {}),
        (lambda: SyntaxError("bad", ("f.py", 3, 1, "x =")), SyntaxError, {"lineno": 3}),
        (lambda: ImportError("none", name="module"), ImportError, {"name": "module"}),
        (lambda: WithProperty("p"), WithProperty, {}),
        (lambda: AssertionError(), AssertionError, {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_classes_and_their_fields(
    raising: Any, make: Any, kind: type[BaseException], attributes: dict[str, Any]
) -> None:
    error = raising(make)
    assert isinstance(error, TaskError)
    assert "task" in str(error)
    if error.cause is None:  # it could not travel; its text did
        assert kind in (TwoArguments, KeywordOnly)
        assert kind.__name__ in str(error)
        return
    assert isinstance(error, kind)
    for name, value in attributes.items():
        assert getattr(error, name) == value
        assert getattr(error.cause, name) == value


def test_an_exception_with_two_arguments_is_caught_by_its_class(raising: Any) -> None:
    """`__init__(code, detail)` with another `super().__init__(...)`: common, and must work."""
    error = raising(lambda: TwoArguments(3, "x"))
    assert isinstance(error, TwoArguments)
    assert (error.code, error.detail) == (3, "x")


@pytest.mark.parametrize("kind", [HostileText, HostileReduce, Explodes])
def test_hostile_exceptions_still_arrive_as_task_errors(raising: Any, kind: Any) -> None:
    error = raising(kind)
    assert isinstance(error, TaskError)
    assert kind.__name__ in str(error)


def test_an_exception_that_holds_a_lock(raising: Any) -> None:
    def make() -> Exception:
        error = ValueError("with a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        return error

    error = raising(make)
    assert isinstance(error, TaskError)
    assert "with a lock" in str(error)


def test_an_exception_class_made_in_the_task(cluster: Any) -> None:
    @cluster.remote
    def task() -> None:
        class LocalError(Exception):
            pass

        raise LocalError("local")

    with pytest.raises(TaskError, match="LocalError: local"):
        cluster.get(task.remote())


def test_an_exception_of_the_script_itself(tmp_path: Path) -> None:
    out = finished_script(
        """
import engine

class Mine(Exception):
    def __init__(self, a, b):
        super().__init__(a, b)
        self.a = a

@engine.remote
def fail():
    raise Mine(1, 2)

@engine.remote
def catch():
    try:
        engine.get(fail.remote())
    except Mine as error:
        return ["caught", error.a]

try:
    engine.get(fail.remote())
except Mine as error:
    print("caught", error.a, isinstance(error, engine.exceptions.TaskError))
print(engine.get(catch.remote()))
""",
        tmp_path,
    )
    assert out.splitlines() == ["caught 1 True", "['caught', 1]"]


def test_the_origin_is_kept_through_tasks(cluster: Any) -> None:
    @cluster.remote
    def origin() -> None:
        raise KeyError("at the origin")

    @cluster.remote
    def between() -> Any:
        return cluster.get(origin.remote())

    with pytest.raises(KeyError, match=r"(?s)origin.*at the origin") as caught:
        cluster.get(between.remote())
    assert caught.value.function_name.endswith("origin")


def test_a_failed_argument_fails_the_task_with_the_same_error(cluster: Any, tmp_path: Path) -> None:
    ran = str(tmp_path / "ran")

    @cluster.remote
    def fail() -> int:
        raise LookupError("first in the chain")

    @cluster.remote
    def step(x: int) -> int:
        open(ran, "a").close()
        return x + 1

    ref = step.remote(step.remote(step.remote(fail.remote())))
    with pytest.raises(LookupError, match="first in the chain"):
        cluster.get(ref, timeout=SECONDS)
    assert not os.path.exists(ran)


def test_a_failed_argument_fails_the_call_and_not_the_actor(cluster: Any) -> None:
    @cluster.remote
    def fail() -> int:
        raise LookupError("argument")

    @cluster.remote
    class Adder:
        def add(self, x: int) -> int:
            return x + 1

    adder = Adder.remote()
    bad = adder.add.remote(fail.remote())
    good = adder.add.remote(1)
    assert cluster.get(good, timeout=SECONDS) == 2
    with pytest.raises(LookupError, match="argument"):
        cluster.get(bad, timeout=SECONDS)


def test_an_unpicklable_result_is_the_tasks_error(cluster: Any) -> None:
    @cluster.remote
    def task() -> Any:
        return {"fine": 1, "lock": [threading.Lock()]}

    with pytest.raises(TypeError, match=r"value\['lock'\]\[0\] \(a _thread\.lock\)"):
        cluster.get(task.remote(), timeout=SECONDS)


def test_a_result_that_cannot_be_unpickled_fails_get_and_not_the_engine(cluster: Any) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return _explode, ()

    @cluster.remote
    def task() -> Any:
        return Bomb()

    with pytest.raises(RuntimeError, match="unpickled"):
        cluster.get(task.remote(), timeout=SECONDS)
    assert cluster.get(cluster.put(1)) == 1


def test_an_argument_that_cannot_be_unpickled_is_the_tasks_error(cluster: Any) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return _explode, ()

    @cluster.remote
    def task(x: Any) -> Any:
        return x

    with pytest.raises(RuntimeError, match="unpickled"):
        cluster.get(task.remote(Bomb()), timeout=SECONDS)
    assert cluster.get(task.remote(1), timeout=SECONDS) == 1


def test_system_exit_in_a_task_is_the_end_of_its_worker(cluster: Any) -> None:
    @cluster.remote(max_retries=0)
    def leave() -> None:
        raise SystemExit(4)

    with pytest.raises(exceptions.WorkerCrashedError, match="exited with code 4"):
        cluster.get(leave.remote(), timeout=SECONDS)


def test_a_keyboard_interrupt_raised_by_user_code_is_an_error(cluster: Any) -> None:
    @cluster.remote(max_retries=0)
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises((exceptions.TaskCancelledError, TaskError)):
        cluster.get(interrupt.remote(), timeout=SECONDS)


def test_errors_are_pickled_again_with_their_class(cluster: Any) -> None:
    @cluster.remote
    def fail() -> None:
        raise KeyError("k")

    with pytest.raises(KeyError) as caught:
        cluster.get(fail.remote())
    error = cluster.get(cluster.put(caught.value))
    assert isinstance(error, KeyError)
    assert isinstance(error, TaskError)


def test_every_exception_has_a_prefixed_name() -> None:
    for name in exceptions.__all__:
        if name != "EngineError":
            assert getattr(exceptions, "Ray" + name) is getattr(exceptions, name)
    assert exceptions.RayError is exceptions.EngineError
    with pytest.raises(AttributeError, match="no attribute 'RayNonsense'"):
        exceptions.RayNonsense  # noqa: B018
