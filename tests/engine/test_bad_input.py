"""One row a misuse: the class of the error, and that it says what was expected and what to do."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

import engine
from engine import exceptions
from engine.options import ACTOR, METHOD, TASK, check_options
from tests.engine.support import finished_script


def plain(a: int, b: int = 2) -> int:
    return a + b


def variadic(*values: Any, **named: Any) -> Any:
    return values, named


add = engine.remote(plain)
take = engine.remote(variadic)


@engine.remote
class Adder:
    """The actor of the rows below."""

    def __init__(self, start: int) -> None:
        self.n = start

    def add(self, k: int) -> int:
        self.n += k
        return self.n

    @staticmethod
    def static(x: int) -> int:
        return x


class Holder:
    """Holds something that cannot be pickled, as users' objects do."""

    def __init__(self) -> None:
        self.name = "holder"
        self.lock = threading.Lock()


async def coroutine() -> None:
    return None


# Rows: (what is done, error, what the message has to say). They need no running engine.
STATIC: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: engine.remote(), TypeError, "without parentheses"),
    (lambda: engine.remote(5), TypeError, r"without parentheses|function or a class"),
    (lambda: engine.remote(plain, num_cpus=1), TypeError, "by keyword only"),
    (lambda: engine.remote(num_cpus=1)(5), TypeError, "takes a function or a class, not int"),
    (lambda: engine.remote(add), TypeError, r"remote already; use \.options"),
    (lambda: engine.remote(Adder), TypeError, r"remote already; use \.options"),
    (lambda: engine.remote(coroutine), TypeError, "coroutine.*actor"),
    (lambda: add(1), TypeError, r"cannot be called directly; use .*\.remote"),
    (lambda: Adder(1), TypeError, r"cannot be instantiated directly; use Adder\.remote"),
    (lambda: add.remote(), TypeError, r"plain\(a, b=None\): missing a required argument: 'a'"),
    (lambda: add.remote(1, 2, 3), TypeError, r"plain.*too many positional"),
    (lambda: add.remote(1, c=3), TypeError, r"plain.*unexpected keyword argument 'c'"),
    (lambda: add.remote(1, a=3), TypeError, r"plain.*multiple values for argument 'a'"),
    (lambda: Adder.remote(), TypeError, "Adder.*missing a required argument: 'start'"),
    (lambda: Adder.remote(1, 2), TypeError, "Adder.*too many positional"),
    (lambda: add.options(cpus=1), ValueError, r"unknown option 'cpus' for a task; known.*num_cpus"),
    (lambda: Adder.options(max_retries=1), ValueError, "unknown option 'max_retries' for an actor"),
    (lambda: engine.method(num_cpus=1), ValueError, "unknown option 'num_cpus' for a method"),
    (lambda: add.options(num_cpus=-1), ValueError, "num_cpus=-1: expected a number >= 0"),
    (lambda: add.options(num_cpus="2"), ValueError, "num_cpus='2': expected a number"),
    (lambda: add.options(num_cpus=True), ValueError, "num_cpus=True: expected a number"),
    (lambda: add.options(num_cpus=float("nan")), ValueError, "num_cpus=nan: expected"),
    (lambda: add.options(num_cpus=[1]), TypeError, r"num_cpus=\[1\]: expected a number"),
    (lambda: add.options(num_returns=-1), ValueError, "num_returns=-1: expected an integer >= 0"),
    (lambda: add.options(num_returns=1.5), ValueError, "num_returns=1.5: expected an integer"),
    (lambda: add.options(max_retries=-2), ValueError, "-1 for no limit"),
    (lambda: add.options(name=""), ValueError, "expected a non-empty string"),
    (lambda: add.options(name=5), ValueError, "expected a non-empty string"),
    (lambda: add.options(resources={"CPU": 1}), TypeError, "use num_cpus"),
    (lambda: add.options(resources={"x": -1}), TypeError, "amount >= 0 for 'x'"),
    (lambda: add.options(resources={"x": "1"}), TypeError, "amount >= 0 for 'x'"),
    (lambda: add.options(resources=[5]), TypeError, "mapping from resource name"),
    (lambda: add.options(retry_exceptions=5), ValueError, "list of exception classes"),
    (lambda: add.options(retry_exceptions=[5]), TypeError, "list of exception classes"),
    (lambda: add.options(scheduling_strategy="FAST"), ValueError, "'DEFAULT', 'SPREAD'"),
    (lambda: Adder.options(lifetime="long"), ValueError, "one of 'detached'"),
    (lambda: Adder.options(max_concurrency=0), ValueError, "expected an integer >= 1"),
    (lambda: Adder.options(get_if_exists=True), ValueError, "needs a name"),
    (lambda: Adder.options(get_if_exists="yes", name="n"), ValueError, "True or False"),
    (lambda: engine.get(5), TypeError, "takes an ObjectRef or a list of them, not a int"),
    (lambda: engine.get(None), TypeError, "not a NoneType"),
    (lambda: engine.get({1: 2}), TypeError, "not a dict"),
    (lambda: engine.get(add), TypeError, "not a RemoteFunction"),
    (lambda: engine.wait([], timeout=-1), ValueError, "seconds >= 0 or None"),
    (lambda: engine.wait(5), TypeError, "takes a list of ObjectRefs, not a int"),
    (lambda: engine.kill(5), TypeError, r"takes an actor handle, not a int; use engine\.cancel"),
    (lambda: engine.kill(add), TypeError, "takes an actor handle, not a RemoteFunction"),
    (lambda: engine.cancel(5), TypeError, "takes an ObjectRef, not a int"),
    (lambda: engine.get_actor(""), ValueError, "expected a non-empty name"),
    (lambda: engine.get_actor(5), (ValueError, TypeError), "expected a non-empty name"),
]

# Rows that need the engine; `ref` is a ready reference, `handle` an actor.
LIVE: list[tuple[Callable[[Any, Any], Any], Any, str]] = [
    (lambda ref, handle: engine.get([ref, 5]), TypeError, "element 1 is a int, expected an Obj"),
    (lambda ref, handle: engine.get([[ref]]), TypeError, "element 0 is a list"),
    (lambda ref, handle: engine.get(handle), TypeError, "for a handle call a method"),
    (lambda ref, handle: engine.get(ref, timeout="1"), TypeError, "expected seconds or None"),
    (lambda ref, handle: engine.get(ref, timeout=-1), ValueError, "expected seconds >= 0"),
    (lambda ref, handle: engine.get(ref, timeout=float("nan")), ValueError, "seconds >= 0"),
    (lambda ref, handle: engine.put(ref), TypeError, "it is a reference already; pass it on"),
    (lambda ref, handle: engine.wait(ref), TypeError, "Put it into a list"),
    (lambda ref, handle: engine.wait((ref,)), TypeError, "takes a list of ObjectRefs, not a tuple"),
    (lambda ref, handle: engine.wait([ref, 5]), TypeError, "expected ObjectRefs, found a int"),
    (lambda ref, handle: engine.wait([ref, ref]), ValueError, "same reference twice"),
    (lambda ref, handle: engine.wait([ref], num_returns=0), ValueError, "integer >= 1"),
    (lambda ref, handle: engine.wait([ref], num_returns=2), ValueError, "2 of only 1 references"),
    (lambda ref, handle: engine.wait([ref], num_returns=1.0), ValueError, "integer >= 1"),
    (lambda ref, handle: engine.wait([ref], timeout=-0.1), ValueError, "seconds >= 0 or None"),
    (lambda ref, handle: engine.kill(ref), TypeError, r"not a ObjectRef; use engine\.cancel"),
    (lambda ref, handle: engine.cancel(handle), TypeError, "takes an ObjectRef, not a ActorHandle"),
    (lambda ref, handle: engine.cancel([ref]), TypeError, "takes an ObjectRef, not a list"),
    (lambda ref, handle: handle.add(1), TypeError, r"cannot be called directly; use \.add\.remote"),
    (lambda ref, handle: handle.sub, AttributeError, "no method 'sub'; it has: add, static"),
    (lambda ref, handle: handle._hidden, AttributeError, "no method '_hidden'"),
    (lambda ref, handle: handle.add.remote(), TypeError, r"Adder\.add.*missing.*'k'"),
    (lambda ref, handle: handle.add.remote(1, 2), TypeError, r"Adder\.add.*too many"),
    (lambda ref, handle: handle.add.options(num_cpus=1), ValueError, "unknown option 'num_cpus'"),
    (lambda ref, handle: engine.get_actor("nobody"), ValueError,
     "no actor named 'nobody' lives in namespace 'default'"),
    (lambda ref, handle: engine.init(), RuntimeError, "ignore_reinit_error=True"),
    (lambda ref, handle: add.options(num_cpus=64).remote(1), exceptions.TaskUnschedulableError,
     r"asks for \{'CPU': 64.*engine\.init\(num_cpus"),
    (lambda ref, handle: add.options(resources={"tpu": 1}).remote(1),
     exceptions.TaskUnschedulableError, "tpu"),
    (lambda ref, handle: Adder.options(num_gpus=1).remote(1), exceptions.ActorUnschedulableError,
     "actor 'Adder' asks for.*GPU"),
    (lambda ref, handle: take.remote(threading.Lock()), TypeError, "lock"),
    (lambda ref, handle: take.remote([{"k": Holder()}]), TypeError,
     r"\[0\]\['k'\]\.lock \(a _thread\.lock\)"),
    (lambda ref, handle: take.remote(x=[1, (2, Holder())]), TypeError, r"\['x'\]\[1\]\[1\]\.lock"),
    (lambda ref, handle: engine.put(Holder()), TypeError, r"value\.lock \(a _thread\.lock\)"),
    (lambda ref, handle: engine.put({"a": [Holder()]}), TypeError, r"value\['a'\]\[0\]\.lock"),
    (lambda ref, handle: handle.add.remote(Holder()), TypeError, r"\.lock"),
    (lambda ref, handle: Adder.remote(Holder()), TypeError, r"\.lock"),
]


@pytest.mark.parametrize("row", range(len(STATIC)))
def test_misuse_without_an_engine(row: int) -> None:
    act, error, message = STATIC[row]
    was = engine.is_initialized()
    with pytest.raises(error, match=f"(?s){message}"):
        act()
    assert engine.is_initialized() == was, "a mistake must not start an engine"


@pytest.fixture(scope="module")
def given(cluster: Any) -> Any:
    handle = Adder.options(num_cpus=0).remote(1)
    return cluster.put(1), handle


@pytest.mark.parametrize("row", range(len(LIVE)))
def test_misuse(cluster: Any, given: Any, row: int) -> None:
    act, error, message = LIVE[row]
    with pytest.raises(error, match=f"(?s){message}") as caught:
        act(*given)
    assert not isinstance(caught.value, exceptions.TaskError), "raised where the mistake is"


def test_the_engine_is_unharmed_by_all_that(cluster: Any, given: Any) -> None:
    _ref, handle = given
    assert cluster.get([add.remote(1), handle.static.remote(7)]) == [3, 7]


def test_a_captured_socket_is_named(cluster: Any) -> None:
    with socket.socket() as connection:

        @cluster.remote
        def send() -> int:
            return connection.fileno()

        with pytest.raises(TypeError, match="captured variable 'connection'"):
            send.remote()
        with pytest.raises(TypeError, match="captured variable 'connection'"):
            take.remote(lambda: connection.fileno())


def test_a_class_that_cannot_be_shipped_names_what_it_holds(cluster: Any) -> None:
    @cluster.remote
    class Locked:
        guard = threading.Lock()

        def f(self) -> None:
            return None

    with pytest.raises(TypeError, match="guard"):
        Locked.remote()


def test_a_name_that_is_taken(cluster: Any) -> None:
    first = Adder.options(name="taken", num_cpus=0).remote(1)
    with pytest.raises(ValueError, match=r"named 'taken' lives.*get_if_exists=True"):
        Adder.options(name="taken").remote(1)
    cluster.kill(first)


def test_init_refuses_nonsense(tmp_path: Any) -> None:
    out = finished_script(
        """
import json
import engine

rows = []
for options in (
    {"num_cpus": -1}, {"num_cpus": "2"}, {"num_cpus": True}, {"num_gpus": -1},
    {"resources": {"CPU": 1}}, {"resources": {"x": -1}}, {"object_store_memory": 5},
    {"address": "10.0.0.1:1"}, {"address": "auto"}, {"unknown": 1},
    {"num_gpus": 0.5}, {"num_cpus": float("nan")}, {"resources": {"object_store_memory": 1}},
    {"namespace": ""}, {"namespace": 5}, {"labels": ["a"]}, {"labels": {"a": "b c"}},
    {"labels": {"ray.io/x": "1"}}, {"include_dashboard": True}, {"dashboard_host": "0.0.0.0"},
    {"local_mode": True}, {"_system_config": {"a": 1}}, {"_temp_dir": "/tmp"}, {"_memory": 5},
    {"job_config": 5}, {"runtime_env": {"pip": ["x"]}},
):
    try:
        engine.init(**options)
        rows.append("started")
        engine.shutdown()
    except Exception as error:
        rows.append(f"{type(error).__name__}: {error}")
print(json.dumps(rows))
""",
        tmp_path,
    )
    rows = json.loads(out)
    wanted = [
        "ValueError: num_cpus=-1: expected",
        "ValueError: num_cpus='2'",
        "ValueError: num_cpus=T",
        "ValueError: num_gpus=-1",
        "ValueError: resources={'CPU'",
        "ValueError: resources={'x'",
        "ValueError: object_store_memory=5",
        "ConnectionError: no cluster",
        "ConnectionError: no cluster",
        "TypeError: init() got an unexpected keyword",
        "ValueError: num_gpus=0.5: expected whole devices",
        "ValueError: num_cpus=nan: expected",
        "ValueError: resources={'object_store_memory': ...}: use init(object_store_memory=)",
        "ValueError: namespace='': expected a non-empty string",
        "ValueError: namespace=5: expected a non-empty string",
        "TypeError: labels=['a']: expected a dictionary",
        "ValueError: labels={'a': 'b c'}: expected names, and values",
        "ValueError: labels={'ray.io/x': ...}: the engine itself",
        "ValueError: init(include_dashboard=True) is not for this engine: there is no dashboard",
        "ValueError: init(dashboard_host='0.0.0.0') is not for this engine",
        "ValueError: init(local_mode=True) is not for this engine: tasks always run in workers",
        "ValueError: init(_system_config={'a': 1}) is not for this engine: limits and time-outs",
        "ValueError: init(_temp_dir='/tmp') is not for this engine: the engine keeps nothing",
        "ValueError: init(_memory=5) is not for this engine: pass resources={'memory'",
        "ValueError: init(job_config=5) is not for this engine: pass runtime_env=",
        "ValueError: runtime_env has no field 'pip' here",
    ]
    for row, start in zip(rows, wanted, strict=True):
        assert row.startswith(start)


def test_a_reference_from_before_a_shutdown(tmp_path: Any) -> None:
    out = finished_script(
        """
import engine

@engine.remote
def f(x):
    return x

@engine.remote
class A:
    def m(self):
        return 1

engine.init(num_cpus=1)
old, actor = engine.put(1), A.remote()
engine.get(actor.m.remote())
pending = f.remote(1)
engine.shutdown()
engine.init(num_cpus=1)
for act in (lambda: engine.get(old), lambda: engine.get([old]), lambda: engine.wait([old]),
            lambda: engine.get(f.remote(old), timeout=5),
            lambda: engine.get(f.remote([old]), timeout=5),
            lambda: engine.get(actor.m.remote(), timeout=5), lambda: engine.cancel(old),
            lambda: engine.put([old]), lambda: old.future().result(5)):
    try:
        act()
        print("nothing")
    except Exception as error:
        print(type(error).__name__, "shutdown" in str(error))
print(engine.get(f.remote(2)))
""",
        tmp_path,
    )
    *rows, last = out.splitlines()
    assert last == "2"
    assert rows == ["ValueError True"] * len(rows), rows


@pytest.mark.parametrize("kind", [TASK, ACTOR, METHOD])
def test_none_means_the_default(kind: str) -> None:
    assert check_options(kind, {"name": None}) == {}
