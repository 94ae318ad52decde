"""Serializers of the user's own: by class, anywhere in a value, nothing to do for the reader."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.exceptions import SerializationError
from engine.store import codec
from engine.util import deregister_serializer, register_serializer


class Connection:
    """Something that holds a live resource."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()


class Special(Connection):
    """A subclass."""


class Table:
    """Something that holds arrays."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> Any:
        raise TypeError("not by pickle")


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    yield
    for cls in (Connection, Special, Table, pa.Table, pa.RecordBatch, OrderedDict):
        deregister_serializer(cls)
    assert codec._dumps is pickle.dumps, "plain pickling is as fast as ever"


def register(cls: type = Connection) -> None:
    register_serializer(cls, serializer=lambda c: c.url, deserializer=lambda url: cls(url))


def test_a_value_of_the_class_travels(cluster: Any) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        cluster.put(Connection("a"))
    register()
    found = cluster.get(cluster.put(Connection("a")))
    assert type(found) is Connection
    assert found.url == "a"


def test_it_is_used_wherever_the_class_occurs(cluster: Any) -> None:
    register()
    captured = Connection("captured")

    @cluster.remote
    def urls(one: Connection, rest: Any) -> list[str]:
        return [one.url, rest["list"][0].url, captured.url]

    answer = urls.remote(Connection("argument"), {"list": [Connection("nested")]})
    assert cluster.get(answer) == ["argument", "nested", "captured"]


def test_the_receiver_registers_nothing_and_a_sender_has_to(cluster: Any) -> None:
    register()

    @cluster.remote
    class Keeper:
        def keep(self, connection: Connection) -> str:
            self.connection = connection
            return connection.url

        def give(self) -> Connection:
            return self.connection

        def register(self) -> None:
            register()

    keeper = Keeper.remote()
    assert cluster.get(keeper.keep.remote(Connection("b"))) == "b"
    with pytest.raises(TypeError, match="cannot pickle"):
        cluster.get(keeper.give.remote())
    cluster.get(keeper.register.remote())
    assert cluster.get(keeper.give.remote()).url == "b"


def test_the_deserializer_travels_by_value(cluster: Any) -> None:
    suffix = "!"
    register_serializer(
        Connection,
        serializer=lambda c: c.url,
        deserializer=lambda url: url.upper() + suffix,
    )

    @cluster.remote
    def same(x: Any) -> Any:
        return x

    assert cluster.get(same.remote(Connection("c"))) == "C!"


def test_large_parts_travel_without_a_copy(cluster: Any) -> None:
    register_serializer(Table, serializer=lambda t: t.array, deserializer=Table)
    ref = cluster.put([Table(np.arange(500_000)), "text"])
    one, two = cluster.get(ref), cluster.get(ref)
    assert one[0].array.ctypes.data == two[0].array.ctypes.data
    assert not one[0].array.flags.writeable


def test_references_inside_are_kept(cluster: Any) -> None:
    inner = cluster.put(np.arange(100_000))

    class Holder:
        def __init__(self, ref: Any) -> None:
            self.ref = ref
            self.lock = threading.Lock()

    register_serializer(Holder, serializer=lambda h: [h.ref], deserializer=lambda r: Holder(r[0]))
    outer = cluster.put(Holder(inner))
    del inner
    assert cluster.get(cluster.get(outer).ref)[-1] == 99_999
    deregister_serializer(Holder)


def test_exactly_the_class_and_not_its_subclasses(cluster: Any) -> None:
    register()
    with pytest.raises(TypeError, match="cannot pickle"):
        cluster.put(Special("d"))
    register(Special)
    assert type(cluster.get(cluster.put(Special("d")))) is Special


def test_the_last_registration_counts_and_can_be_taken_back(cluster: Any) -> None:
    register()
    register_serializer(Connection, serializer=lambda c: None, deserializer=lambda _: 7)
    assert cluster.get(cluster.put(Connection("e"))) == 7
    ref = cluster.put(Connection("e"))
    deregister_serializer(Connection)
    deregister_serializer(Connection)
    with pytest.raises(TypeError, match="cannot pickle"):
        cluster.put(Connection("e"))
    assert cluster.get(ref) == 7


@pytest.mark.parametrize("value", [pa.table({"n": [1, 2]}), pa.record_batch({"n": [1, 2]})])
def test_classes_with_a_way_of_their_own(cluster: Any, value: Any) -> None:
    cls = type(value)
    register_serializer(cls, serializer=lambda t: t.num_rows, deserializer=lambda n: ["rows", n])
    assert cluster.get(cluster.put(value)) == ["rows", 2]
    assert cluster.get(cluster.put([value])) == [["rows", 2]]
    deregister_serializer(cls)
    assert cluster.get(cluster.put(value)).equals(value)


def test_other_pickling_is_not_affected() -> None:
    register_serializer(OrderedDict, serializer=lambda d: 1, deserializer=lambda n: n)
    value = OrderedDict(a=1)
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value


def test_classes_registered_with_copyreg_later_are_still_found(cluster: Any) -> None:
    import copyreg

    class Late:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    register()
    copyreg.pickle(Late, lambda late: (str, ("late",)))
    try:
        assert cluster.get(cluster.put([Late(), Connection("f")]))[0] == "late"
    finally:
        del copyreg.dispatch_table[Late]


def test_an_error_in_a_serializer_is_told(cluster: Any) -> None:
    def fail(_connection: Any) -> Any:
        raise RuntimeError("no")

    register_serializer(Connection, serializer=fail, deserializer=lambda x: x)
    with pytest.raises(SerializationError, match=r"value\[0\].*Connection.*no"):
        cluster.put([Connection("g")])


@pytest.mark.parametrize(
    ("cls", "functions", "match"),
    [
        ("Connection", (str, str), "expected a class"),
        (Connection, (None, str), "serializer=None cannot be called"),
        (Connection, (str, 3), "deserializer=3 cannot be called"),
        (dict, (str, str), "dict is written by pickle itself"),
        (Connection, (str, threading.Lock().acquire), "cannot ship"),
    ],
)
def test_misuse(cls: Any, functions: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        register_serializer(cls, serializer=functions[0], deserializer=functions[1])
