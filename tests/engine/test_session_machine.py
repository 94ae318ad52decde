"""The session machine over a connection that loses, repeats and reorders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config
from engine.core.session import Packet, Session

CONFIG = Config(session_window_bytes=10, session_resend_seconds=0.1, session_resend_seconds_max=1.0)


class Wire:
    """Two ends, and the packets between them."""

    def __init__(self) -> None:
        self.flying: list[Packet] = []
        self.ends = {
            1: Session(1, 2, CONFIG, self.flying.append),
            2: Session(2, 1, CONFIG, self.flying.append),
        }
        self.told: dict[int, list[bytes]] = {1: [], 2: []}
        self.heard: dict[int, list[bytes]] = {1: [], 2: []}
        self.now = 0.0

    def say(self, number: int, body: bytes) -> None:
        self.told[number].append(body)
        self.ends[number].send(body)

    def arrive(self, packet: Packet) -> None:
        self.heard[packet.source] += self.ends[packet.target].on_packet(packet, self.now)

    def calm(self) -> None:
        """Nothing is lost any more, until everybody has everything."""
        for _ in range(1000):
            for end in self.ends.values():
                end.tick(self.now)
            packets, self.flying[:] = list(self.flying), []
            for packet in packets:
                self.arrive(packet)
            if not self.flying and all(end.idle for end in self.ends.values()):
                return
            self.now += 0.5
        raise AssertionError("it never becomes calm")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from([1, 2]), st.integers(0, 14)),
        st.tuples(st.just("flush"), st.sampled_from([1, 2]), st.just(0)),
        st.tuples(st.just("arrive"), st.integers(0, 99), st.booleans()),
        st.tuples(st.just("lose"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 30), st.just(0)),
        st.tuples(st.just("reconnect"), st.sampled_from([1, 2]), st.just(0)),
    ),
    max_size=120,
)


@given(STEPS)
def test_everything_arrives_once_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    wire = Wire()
    for at, (what, which, more) in enumerate(steps):
        if what == "say":
            wire.say(which, bytes([at]) * more)
        elif what == "flush":
            wire.ends[which].flush(wire.now)
        elif what == "wait":
            wire.now += which / 100
            for end in wire.ends.values():
                end.tick(wire.now)
        elif what == "reconnect":
            wire.ends[which].reconnected(wire.now)
        elif wire.flying:
            packet = wire.flying.pop(which % len(wire.flying))
            if what == "arrive":
                wire.arrive(packet)
                if more:
                    wire.flying.append(packet)
        for number in (1, 2):
            assert wire.heard[number] == wire.told[number][: len(wire.heard[number])]
            flight = wire.ends[number]._flight
            assert len(flight) <= 1 or sum(len(one.body) for one in flight) <= 10
    wire.calm()
    assert wire.heard == wire.told


def test_the_past_of_a_node_is_refused() -> None:
    wire = Wire()
    one = wire.ends[1]
    assert one.on_packet(Packet(3, 1, 1, 0, b"of another life"), 0.0) == []
    assert one.on_packet(Packet(2, 4, 1, 0, b"to another life"), 0.0) == []
    assert one.refused == 2
    assert one.on_packet(Packet(2, 1, 1, 0, b"now"), 0.0) == [b"now"]


def test_patience_grows_and_shrinks_again() -> None:
    wire = Wire()
    one = wire.ends[1]
    one.send(b"a")
    one.flush(0.0)
    looks, now = [], 0.0
    for _ in range(6):
        following = one.tick(now)
        assert following is not None
        looks.append(round(following - now, 3))
        now = following
    assert looks == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert len(wire.flying) == 6
    one.on_packet(Packet(2, 1, 0, 1), now)
    assert one.idle
    assert one.tick(now) is None


def test_who_has_no_room_is_told() -> None:
    wire = Wire()
    one = wire.ends[1]
    one.send(b"x" * 10)
    assert not one.room
    one.flush(0.0)
    assert one.room  # it is on its way; the next waits for it
    one.send(b"y" * 10)
    one.flush(0.0)
    assert not one.room
    wire.arrive(wire.flying.pop())
    wire.ends[2].flush(0.0)
    wire.arrive(wire.flying.pop())
    one.flush(0.0)
    assert one.room


def test_what_a_replayed_life_has_heard_and_said_counts() -> None:
    """After a replay the peer's acknowledgement tells what need not be sent again."""
    wire = Wire()
    for body in (b"a", b"b"):
        wire.say(1, body)
    wire.calm()
    again = Session(1, 2, CONFIG, wire.flying.append)
    for body in (b"a", b"b", b"c"):
        again.send(body)
    wire.ends[1] = again
    wire.told[1].append(b"c")
    wire.calm()
    assert wire.heard[1] == [b"a", b"b", b"c"]
