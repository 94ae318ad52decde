"""One row a misuse: the class of the error, and that it says what was expected and what to do."""

from __future__ import annotations

import functools
import json
import pickle
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

import engine
from engine import exceptions, util
from engine.actor import exit_actor
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


async def coroutines() -> Any:
    yield None


@engine.remote
def numbers(n: int) -> Any:
    yield from range(n)


class Grouped:
    """Names a concurrency group."""

    @engine.method(concurrency_group="io")
    def read(self) -> None:
        return None


def inherit() -> None:
    class _Derived(Adder):  # type: ignore[misc,valid-type]
        pass


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
    (lambda: engine.cancel(5), TypeError, "takes an ObjectRef or an ObjectRefGenerator, not a int"),
    (lambda: engine.remote(coroutines), TypeError, "coroutine.*actor"),
    (lambda: engine.remote(functools.partial(plain, 1)), TypeError, "not a partial: wrap it in a"),
    (lambda: engine.method(plain), TypeError, r"by keyword: @engine\.method\(num_returns=2\)"),
    (lambda: engine.method(), TypeError, "without options needs no decorator"),
    (inherit, TypeError, "'Adder' cannot be inherited from: inherit from the plain class"),
    (lambda: add.options(2), TypeError, "positional argument"),
    (lambda: add.options(num_returns="dynamic"), ValueError, '"streaming" for a generator'),
    (lambda: add.options(num_returns=True), ValueError, "num_returns=True: expected an integer"),
    (lambda: add.options(memory=-1), ValueError, "memory=-1: expected a number >= 0"),
    (lambda: add.options(num_gpus=float("inf")), ValueError, "num_gpus=inf: expected"),
    (lambda: add.options(resources={5: 1}), TypeError, "names to be strings"),
    (lambda: add.options(resources={"GPU": 1}), TypeError, "use num_gpus"),
    (lambda: add.options(_generator_backpressure_num_objects=0), ValueError, "integer >= 1, or -1"),
    (lambda: Adder.options(_generator_backpressure_num_objects=-2), ValueError, "integer >= 1"),
    (lambda: add.options(max_restarts=1), ValueError, "unknown option 'max_restarts' for a task"),
    (lambda: add.options(lifetime="detached"), ValueError, "unknown option 'lifetime' for a task"),
    (lambda: add.options(max_concurrency=2), ValueError, "unknown option 'max_concurrency' for a"),
    (lambda: add.options(concurrency_group="io"), ValueError, "unknown option 'concurrency_group'"),
    (lambda: add.options(max_pending_calls=1), ValueError, "unknown option 'max_pending_calls'"),
    (lambda: add.options(on_full="wait"), ValueError, "one of 'block', 'raise'"),
    (lambda: add.options(max_retries="many"), ValueError, "max_retries='many': expected an int"),
    (lambda: add.options(max_retries=1.5), ValueError, "max_retries=1.5: expected an integer"),
    (lambda: engine.method(max_retries=1), ValueError, "for a method.*max_task_retries"),
    (lambda: engine.method(num_returns=-1), ValueError, "num_returns=-1: expected an integer >= 0"),
    (lambda: engine.method(concurrency_group=""), ValueError, "expected a non-empty string"),
    (lambda: engine.method(max_task_retries=-2), ValueError, "-1 for no limit"),
    (lambda: engine.method(retry_exceptions="all"), ValueError, "list of exception classes"),
    (lambda: Adder.options(max_restarts=-2), ValueError, "integer >= 0, or -1 for no limit"),
    (lambda: Adder.options(max_restarts="forever"), ValueError, "max_restarts='forever': expected"),
    (lambda: Adder.options(max_task_retries=1.5), ValueError, "max_task_retries=1.5: expected"),
    (lambda: Adder.options(max_concurrency=1.5), ValueError, "max_concurrency=1.5: expected"),
    (lambda: Adder.options(max_concurrency=-1), ValueError, "expected an integer >= 1"),
    (lambda: Adder.options(max_pending_calls=0), ValueError, "integer >= 1, or -1 for no limit"),
    (lambda: Adder.options(namespace=""), ValueError, "namespace='': expected a non-empty string"),
    (lambda: Adder.options(allow_out_of_order_execution=1), ValueError, "True or False"),
    (lambda: Adder.options(concurrency_groups={"io": 1}), ValueError, r"not to \.options\(\)"),
    (lambda: engine.remote(concurrency_groups=["io"])(Grouped), TypeError, "a mapping from group"),
    (lambda: engine.remote(concurrency_groups={"io": 0})(Grouped), TypeError, "1 for group 'io'"),
    (lambda: engine.remote(concurrency_groups={"": 1})(Grouped), TypeError, "non-empty strings"),
    (lambda: engine.remote(Grouped), ValueError,
     r"Grouped\.read is to run in concurrency group 'io'.*none\. Declare it: @engine\.remote"),
    (lambda: engine.remote(concurrency_groups={"compute": 1})(Grouped), ValueError,
     "group 'io', and its actor class has: 'compute'"),
    (lambda: engine.get("abc"), TypeError, "not a str. Values need no get"),
    (lambda: engine.get({1}), TypeError, "not a set"),
    (lambda: engine.get(Adder), TypeError, "not a ActorClass"),
    (lambda: engine.get([], timeout=-1), ValueError, "seconds >= 0 or None"),
    (lambda: engine.wait(None), TypeError, "takes a list of ObjectRefs, not a NoneType"),
    (lambda: engine.wait([], timeout="1"), TypeError, "timeout='1': expected seconds or None"),
    (lambda: engine.kill(Adder), TypeError, "takes an actor handle, not a ActorClass"),
    (lambda: engine.cancel(None), TypeError, "ObjectRefGenerator, not a NoneType"),
    (lambda: engine.get_actor("n", namespace=5), ValueError, "namespace=5, expected a non-empty"),
    (lambda: engine.preload("module"), ValueError, "expected 'module:function'"),
    (lambda: util.placement_group([]), ValueError, "expected a non-empty list of bundles"),
    (lambda: util.placement_group([{"CPU": 0}]), ValueError, "a resource with an amount above 0"),
    (lambda: util.placement_group([{"CPU": -1}]), ValueError, "expected amounts >= 0"),
    (lambda: util.placement_group([{"CPU": 1}], strategy="FAST"), ValueError, "one of PACK"),
    (lambda: util.remove_placement_group(5), TypeError, "expected a PlacementGroup, not a int"),
    (lambda: util.Pool(0), ValueError, "at least 1"),
    (lambda: util.Executor(max_workers=0), ValueError, "greater than 0"),
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
    (lambda ref, handle: engine.cancel(handle), TypeError, "not a ActorHandle"),
    (lambda ref, handle: engine.cancel([ref]), TypeError, "not a list"),
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
    (lambda ref, handle: engine.get([numbers.remote(1)]), TypeError,
     "element 0 is a ObjectRefGenerator, expected an ObjectRef"),
    (lambda ref, handle: engine.get(handle.add), TypeError, "not a ActorMethod"),
    (lambda ref, handle: engine.wait(numbers.remote(1)), TypeError, "Put it into a list"),
    (lambda ref, handle: engine.wait([ref, handle]), TypeError, "found a ActorHandle"),
    (lambda ref, handle: engine.wait([ref], num_returns=True), ValueError, "integer >= 1"),
    (lambda ref, handle: engine.put(numbers.remote(1)), TypeError,
     "cannot pickle ObjectRefGenerator.*Pass on the references it yields"),
    (lambda ref, handle: take.remote([numbers.remote(1)]), TypeError, r"\[0\]\[0\] \(a engine"),
    (lambda ref, handle: pickle.dumps(ref), exceptions.OutOfBandObjectRefSerializationException,
     r"Pass it as an argument, return it.*engine\.put\(\)"),
    (lambda ref, handle: pickle.dumps(handle), exceptions.OutOfBandObjectRefSerializationException,
     r"engine\.put\(\)"),
    (lambda ref, handle: ref.as_future(), RuntimeError, "no .*event loop"),
    (lambda ref, handle: handle.add.options(concurrency_group="io"), ValueError,
     r"Adder\.add is to run in concurrency group 'io'.*Declare it"),
    (lambda ref, handle: handle.add.options(concurrency_group=5), ValueError, "non-empty string"),
    (lambda ref, handle: handle.add.options(on_full="later"), ValueError, "'block', 'raise'"),
    (lambda ref, handle: handle.add.options(num_returns="many"), ValueError, "integer >= 0"),
    (lambda ref, handle: engine.kill("name"), TypeError, "takes an actor handle, not a str"),
    (lambda ref, handle: engine.get_actor("nobody", namespace="blue"), ValueError,
     "no actor named 'nobody' lives in namespace 'blue'"),
    (lambda ref, handle: engine.get_runtime_context().is_canceled(), RuntimeError,
     "for the code of tasks and actor methods"),
    (lambda ref, handle: exit_actor(), TypeError, "methods of actors"),
    (lambda ref, handle: engine.TaskID("00"), ValueError, "expected the bytes of an id"),
    (lambda ref, handle: util.Pool(64), ValueError, r"64 processes on a cluster with 2 CPUs"),
    (lambda ref, handle: util.ActorPool([handle]).push(handle), ValueError, "already belongs"),
    (lambda ref, handle: util.Queue().put(1, timeout=-1), ValueError, "non-negative number"),
    (lambda ref, handle: util.Queue().get(timeout=-1), ValueError, "non-negative number"),
    (lambda ref, handle: util.Queue().put_nowait_batch(5), TypeError, "must be an Iterable"),
    (lambda ref, handle: util.Queue().get_nowait_batch(-1), ValueError, "nonnegative"),
    (lambda ref, handle: util.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD"),
     ValueError, "needs as many machines; this engine has one"),
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
    {"job_config": 5}, {"runtime_env": {"pip": ["x"]}}, {"config": 5}, {"resources": [1]},
    {"object_store_memory": "1GB"}, {"on_full": "wait"}, {"address": 5},
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
        "ConnectionError: address='10.0.0.1:1': nodes on several hosts are not there yet",
        "ConnectionError: no node",
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
        "TypeError: config=5: expected an engine.config.Config",
        "TypeError: resources=[1]: expected a dict",
        "ValueError: object_store_memory='1GB': expected bytes",
        "ValueError: on_full='wait': expected 'block' or 'raise'",
        "TypeError: address=5: expected a string or None",
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

@engine.remote
def numbers():
    yield 1

engine.init(num_cpus=1)
old, actor, items = engine.put(1), A.remote(), numbers.remote()
engine.get(actor.m.remote())
pending = f.remote(1)
engine.shutdown()
engine.init(num_cpus=1)
for act in (lambda: engine.get(old), lambda: engine.get([old]), lambda: engine.wait([old]),
            lambda: engine.get(f.remote(old), timeout=5),
            lambda: engine.get(f.remote([old]), timeout=5),
            lambda: engine.get(actor.m.remote(), timeout=5), lambda: engine.cancel(old),
            lambda: engine.put([old]), lambda: old.future().result(5),
            lambda: engine.wait([items]), lambda: engine.cancel(items),
            lambda: engine.kill(actor)):
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
