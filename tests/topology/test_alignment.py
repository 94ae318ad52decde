"""Barrier alignment against a model that only counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.topology.alignment import Alignment
from engine.topology.errors import ProtocolError


@given(st.integers(1, 5), st.data())
def test_a_barrier_completes_exactly_when_all_live_senders_are_past(
    count: int, data: st.DataObject
) -> None:
    alignment = Alignment(range(count), 0)
    live = set(range(count))
    for epoch in range(1, 4):
        waiting = set(live)
        while waiting:
            sender = data.draw(st.sampled_from(sorted(waiting)))
            waiting.discard(sender)
            if data.draw(st.booleans()):
                complete = alignment.on_marker(sender, epoch)
                assert complete == (not waiting)
            else:
                live.discard(sender)
                complete = alignment.on_end(sender)
                assert complete == (not waiting and bool(live))
            if alignment.pending is not None and not complete:
                assert set(alignment.missing()) == waiting
        if not live:
            return
        assert alignment.advance() == epoch
        assert alignment.epoch == epoch
        assert not alignment.passed


def test_protocol_errors_are_named() -> None:
    alignment = Alignment("ab", 3)
    with pytest.raises(ProtocolError, match="expected a marker of epoch > 3, found 3"):
        alignment.on_marker("a", 3)
    with pytest.raises(ProtocolError, match="no complete barrier"):
        alignment.advance()
    assert not alignment.on_marker("a", 4)
    with pytest.raises(ProtocolError, match="expected a marker of epoch 4, found 5"):
        alignment.on_marker("b", 5)
    with pytest.raises(ProtocolError, match="past its marker or has ended"):
        alignment.on_marker("a", 4)
    with pytest.raises(ProtocolError, match="past its marker or has ended"):
        alignment.on_end("a")
    assert "missing ['b']" in repr(alignment)
    assert alignment.on_end("b")
    with pytest.raises(ProtocolError, match="past its marker or has ended"):
        alignment.on_end("b")
