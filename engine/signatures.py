"""Checking arguments against a signature at the call, for a fraction of the cost of `bind`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["SignatureCheck"]


class SignatureCheck:
    """The parameters of a function, picklable, with a fast yes and a precise no."""

    __slots__ = ("_fast_max", "_fast_min", "_signature", "name")

    def __init__(self, function: Callable[..., Any], name: str, *, skip_self: bool = False) -> None:
        self.name = name
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # built-ins without a signature: the worker will tell
            signature = inspect.Signature(
                [
                    inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
                    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
                ]
            )
            skip_self = False
        parameters = list(signature.parameters.values())
        if skip_self:
            parameters = parameters[1:]
        # Defaults and annotations stay at home: only the shape of the signature travels.
        parameters = [
            one.replace(
                annotation=inspect.Parameter.empty,
                default=one.empty if one.default is one.empty else None,
            )
            for one in parameters
        ]
        self._signature = inspect.Signature(parameters)
        positional = [
            one
            for one in parameters
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        needs_keyword = any(
            one.kind is one.KEYWORD_ONLY and one.default is one.empty for one in parameters
        )
        variadic = any(one.kind is one.VAR_POSITIONAL for one in parameters)
        required = sum(1 for one in positional if one.default is one.empty)
        self._fast_min = 1 << 30 if needs_keyword else required
        self._fast_max = 1 << 30 if variadic else len(positional)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError when the function could not be called with these arguments."""
        if not kwargs and self._fast_min <= len(args) <= self._fast_max:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{self._signature}: {error}") from None

    def __getstate__(self) -> tuple[Any, ...]:
        parameters = [
            (one.name, int(one.kind), one.default is one.empty)
            for one in self._signature.parameters.values()
        ]
        return self.name, parameters, self._fast_min, self._fast_max

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.name, parameters, self._fast_min, self._fast_max = state
        empty = inspect.Parameter.empty
        self._signature = inspect.Signature(
            [
                inspect.Parameter(
                    name, inspect._ParameterKind(kind), default=empty if required else None
                )
                for name, kind, required in parameters
            ]
        )
