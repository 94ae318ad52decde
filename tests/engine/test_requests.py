"""Requests to the node: an answer that nobody waits for any more is given back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest

from engine.core.control import Attach, SegmentsReturned
from engine.runtime.requests import Requests


class _Runtime:
    """A runtime whose user is interrupted while he waits, after `meanwhile()`."""

    def __init__(self) -> None:
        self.node = b"node----"
        self.node_alive = True
        self.lock = contextlib.nullcontext()
        self.reactor = self.owner = self
        self.objects = None
        self.sent: list[Any] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def send(self, process: bytes, message: Any) -> None:
        self.sent.append(message)

    def flush(self) -> None:
        pass

    def wait_until(self, ready: Callable[[], bool], deadline: float | None) -> bool:
        self.meanwhile()
        raise KeyboardInterrupt


def _attach(number: int) -> tuple[Attach, int]:
    fd = os.memfd_create("test")
    return Attach(number, 7, 4096), fd


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:  # closed: what the test asks
        return False
    return True


@pytest.mark.parametrize("late", [True, False])
def test_a_segment_whose_asker_was_interrupted_is_given_back(late: bool) -> None:
    runtime = _Runtime()
    requests = Requests(runtime)  # type: ignore[arg-type]
    message, fd = _attach(1)
    if not late:
        runtime.meanwhile = lambda: requests.on_attach(message, fd)
    with pytest.raises(KeyboardInterrupt):
        requests.request("segment", size=4096)
    if late:
        requests.on_attach(message, fd)
    assert not _is_open(fd)
    assert runtime.sent[1:] == [SegmentsReturned([7])]
    assert not requests._replies
    assert not requests._abandoned


def test_the_descriptor_of_a_map_request_is_closed_and_nothing_given_up() -> None:
    runtime = _Runtime()
    requests = Requests(runtime)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        requests.request("map", segment=7)
    message, fd = _attach(1)
    requests.on_attach(message, fd)
    assert not _is_open(fd)
    assert len(runtime.sent) == 1
