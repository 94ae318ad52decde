"""The signature check agrees with Python itself."""

from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from engine.signatures import SignatureCheck


def none() -> None: ...
def one(a: Any) -> None: ...
def default(a: Any, b: Any = 1) -> None: ...
def positional(a: Any, b: Any = 1, /, c: Any = 2) -> None: ...
def keyword(a: Any, *, k: Any) -> None: ...
def optional(a: Any = 0, *, k: Any = 1) -> None: ...
def variadic(*args: Any) -> None: ...
def catching(**kwargs: Any) -> None: ...
def everything(a: Any, /, b: Any, *args: Any, k: Any, m: Any = 1, **kwargs: Any) -> None: ...


FUNCTIONS: list[Callable[..., Any]] = [
    none, one, default, positional, keyword, optional, variadic, catching, everything,
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FUNCTIONS),
    st.lists(st.integers(0, 3), max_size=4),
    st.dictionaries(st.sampled_from("abckmz"), st.integers(0, 3), max_size=4),
    st.booleans(),
)
def test_it_agrees_with_bind(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int], travelled: bool
) -> None:
    check = SignatureCheck(function, function.__name__)
    if travelled:
        check = pickle.loads(pickle.dumps(check))
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=function.__name__):
            check.check(tuple(args), kwargs)
    else:
        check.check(tuple(args), kwargs)


def test_self_is_skipped() -> None:
    class Thing:
        def method(self, a: int) -> None: ...

    check = SignatureCheck(Thing.method, "Thing.method", skip_self=True)
    check.check((1,), {})
    with pytest.raises(TypeError, match=r"Thing\.method\(a\): missing"):
        check.check((), {})


@pytest.mark.parametrize("function", [max, dict, print, functools.partial(one, 1), int])
def test_callables_without_a_python_signature(function: Any) -> None:
    SignatureCheck(function, "f").check((), {})


def test_defaults_stay_at_home() -> None:
    def heavy(a: Any = bytes(100_000)) -> None: ...

    assert len(pickle.dumps(SignatureCheck(heavy, "heavy"))) < 1000
