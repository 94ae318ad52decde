"""The head of several nodes, and what makes it a function of its journal."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config
from engine.core.between import (
    HEAD,
    Answer,
    Bring,
    Fenced,
    Gone,
    Heartbeat,
    Join,
    Joined,
    NodeDown,
    NodeUp,
    Place,
    Placed,
    Saved,
    ToNode,
    ToProcess,
    View,
    decode_body,
    encode_body,
)
from engine.core.cluster import Cluster, Event
from engine.core.control import (
    ActorChanged,
    Checkpoint,
    CheckpointKept,
    CreateActor,
    KillActor,
    LookupActor,
    Restore,
    WorkerDied,
)
from engine.core.ids import node_of, process_id
from engine.core.session import Packet, Session

CONFIG = Config()
ONE, TWO = process_id(b"first-", 1), process_id(b"second", 2)
ACTOR = ONE + bytes(7) + b"\x01"


class Net:
    """A head, and nodes that hear all it says."""

    def __init__(self) -> None:
        self.out: list[tuple[str, Any]] = []
        self.journal: list[Any] = []
        self.head = self.new()
        self.nodes: dict[int, Session] = {}
        self.heard: dict[int, list[Any]] = {}
        self.now = 0.0

    def new(self) -> Cluster:
        return Cluster(CONFIG, lambda where, message: self.out.append((where, message)))

    def join(self, name: str, cpus: int = 2) -> Any:
        wish = Join(name.encode(), name, {"CPU": cpus * 10_000}, self.now)
        self.head.on_datagram(name, wish, self.now)
        self.sync()
        answer = next(m for _, m in self.out if isinstance(m, Joined) and m.nonce == name.encode())
        self.nodes.setdefault(
            answer.number,
            Session(answer.number, HEAD, CONFIG, lambda packet: self.up(name, packet)),
        )
        self.heard.setdefault(answer.number, [])
        self.hear()
        return answer

    def up(self, name: str, packet: Packet) -> None:
        self.head.on_datagram(name, packet, self.now)

    def say(self, number: int, body: Any) -> None:
        self.nodes[number].send(encode_body(body))
        self.nodes[number].flush(self.now)
        self.sync()

    def sync(self) -> None:
        """The journal is written, and all that follows is said and heard."""
        # Encoded and decoded, as on a disk: the machine may not change what it has handed out.
        self.journal += msgspec.msgpack.decode(
            msgspec.msgpack.encode(self.head.take()), type=list[Event]
        )
        self.head.flush(self.now)
        self.hear()

    def hear(self) -> None:
        for _where, message in self.out:
            if isinstance(message, Packet) and message.target in self.nodes:
                bodies = self.nodes[message.target].on_packet(message, self.now)
                self.heard[message.target] += [decode_body(body) for body in bodies]

    def beat(self, number: int) -> Any:
        view = View(number, {"CPU": 20_000}, {"CPU": 20_000}, 0)
        self.head.on_datagram("", Heartbeat(number, self.now, view), self.now)
        self.sync()
        return self.out[-1][1]

    def create(self, number: int = 1, **options: Any) -> None:
        options = {"class": "A", "resources": {"CPU": 1.0}, **options}
        self.say(number, ToNode(ONE, CreateActor(ACTOR, b"k", b"", b"", options)))

    def place(self, number: int, process: bytes) -> None:
        self.say(number, Placed(ACTOR, process, 7))

    def told(self, number: int, kind: type) -> list[Any]:
        return [body for body in self.heard[number] if type(body) is kind]

    def states(self, number: int) -> list[str]:
        return [
            body.message.state for body in self.told(number, ToProcess)
            if isinstance(body.message, ActorChanged)
        ]


def test_nodes_hear_of_each_other() -> None:
    net = Net()
    assert net.join("a").number == 1
    answer = net.join("b")
    assert (answer.number, answer.nodes) == (2, [(1, "a")])
    assert net.told(1, NodeUp) == [NodeUp(2, "b")]
    assert net.join("b").number == 2, "a wish that is repeated has the same answer"


def test_nothing_is_said_before_it_is_written() -> None:
    net = Net()
    net.head.on_datagram("a", Join(b"a", "a", {}, 0.0), 0.0)
    assert not net.out
    assert net.head.take()
    net.head.flush(0.0)
    assert [type(message) for _, message in net.out] == [Joined]


def test_an_actor_lives_and_moves_with_the_death_of_its_node() -> None:
    net = Net()
    net.join("a", 1)
    net.join("b", 2)
    net.create(max_restarts=1)
    assert net.told(2, Place), "where there is more left"
    net.place(2, TWO)
    net.say(2, ToNode(TWO, ActorChanged(ACTOR, "alive", TWO)))
    assert net.states(1) == ["alive"]
    net.now = 4.0
    net.beat(1)
    net.now = 4.6
    net.head.tick(net.now)
    net.sync()
    assert [body.number for body in net.told(1, NodeDown)] == [2]
    assert net.states(1) == ["alive", "restarting"]
    assert net.told(1, Place)
    assert isinstance(net.beat(2), Fenced), "a returning zombie is told"
    assert net.join("b again").number == 3


def test_two_actors_are_not_sent_to_the_same_last_place() -> None:
    net = Net()
    net.join("a", 1)
    net.join("b", 1)
    options = {"class": "A", "resources": {"CPU": 1.0}}
    for number in (1, 2, 3):
        actor = ONE + bytes(7) + bytes([number])
        net.say(1, ToNode(ONE, CreateActor(actor, b"k", b"", b"", dict(options))))
    assert [len(net.told(number, Place)) for number in (1, 2)] == [1, 1]
    net.join("c", 1)
    assert len(net.told(3, Place)) == 1, "the third has waited for a place"


def test_what_is_asked_of_the_dead_is_answered() -> None:
    net = Net()
    net.join("a")
    lost = process_id(b"zombie", 9) + bytes(8)
    net.say(1, ToNode(ONE, LookupActor(lost)))
    assert net.states(1) == ["dead"]


def test_heartbeats_are_answered_with_how_others_stand() -> None:
    net = Net()
    net.join("a")
    answer = net.beat(1)
    assert isinstance(answer, Answer)
    assert [view.number for view in answer.views] == [1]


def test_a_head_that_comes_back_says_what_nobody_has_heard() -> None:
    net = Net()
    net.join("a")
    net.create()
    heard = list(net.heard[1])
    net.nodes[1].send(encode_body(Placed(ACTOR, ONE, 7)))
    net.nodes[1].flush(0.0)
    net.head.take()  # the write is lost with the head, and nothing was acknowledged
    net.head = net.new()
    net.head.replay(list(net.journal), 10.0)
    net.now = 10.0
    net.hear()
    assert net.heard[1] == heard, "what it says again is heard once"
    net.nodes[1].tick(10.0)
    net.sync()
    assert [type(body.message) for body in net.told(1, ToProcess)] == [CreateActor]
    assert net.head.tick(14.4) is not None
    assert list(net.head.nodes) == [1], "it has the full time to be heard"


KEPT = Checkpoint(ACTOR, 1, 5, 0)
REPLAYED = {"max_restarts": 2, "checkpoint_every": 1}


def replayed() -> Net:
    """An actor with a checkpoint on the second of two nodes, made by a process of the first."""
    net = Net()
    net.join("a", 1)
    net.join("b", 2)
    net.create(**REPLAYED)
    assert [one.unused for one in net.told(2, Place)] == [True]
    net.place(2, TWO)
    net.say(2, ToNode(TWO, ActorChanged(ACTOR, "alive", TWO)))
    net.say(2, Saved(TWO, KEPT, b"state"))
    return net


def lose_the_second(net: Net) -> None:
    net.now += 4.0
    net.beat(1)
    net.now += 0.6
    net.head.tick(net.now)
    net.sync()


def test_a_checkpoint_outlives_its_node_and_the_head() -> None:
    net = replayed()
    kept = ToProcess(TWO, CheckpointKept(ACTOR, 1))
    assert kept in net.told(2, ToProcess)
    net.head = net.new()
    net.head.replay(list(net.journal), net.now)
    lose_the_second(net)
    again = process_id(b"again-", 1)
    net.place(1, again)
    brought = Bring(again, Restore(KEPT, [ONE], [], [TWO]), b"state")
    assert net.told(1, Bring) == [brought]
    after = net.heard[1][net.heard[1].index(brought) + 1 :]
    assert [type(body.message) for body in after] == [CreateActor], "and then it is made"
    net.say(1, ToNode(ONE, KillActor(ACTOR, True, False, "is not wanted")))
    net.say(1, Gone(WorkerDied(again, 7, "was killed")))
    assert not net.head.checkpoints


def test_a_checkpoint_of_a_process_that_was_declared_dead_is_not_taken() -> None:
    net = replayed()
    lose_the_second(net)
    again = process_id(b"again-", 1)
    net.place(1, again)
    net.say(1, Saved(TWO, Checkpoint(ACTOR, 2, 5, 0), b"other"))
    assert net.head.checkpoints == {ACTOR: b"state"}


def test_who_was_called_by_an_actor_knows_of_its_order_when_its_node_dies() -> None:
    """Nobody is left to say to whom it had lines. Replayed ones are asked where they are by then;

    so are those that have called it, though their process has died before."""
    net = replayed()
    other, host = ONE + bytes(7) + b"\x02", process_id(b"host--", 1)
    caller, second = ONE + bytes(7) + b"\x03", process_id(b"caller", 1)
    for actor, process in ((other, host), (caller, second)):
        options = {"class": "A", "resources": {}, **REPLAYED}
        net.say(1, ToNode(ONE, CreateActor(actor, b"k", b"", b"", options)))
        net.say(1, Placed(actor, process, 8))
        net.say(1, ToNode(process, ActorChanged(actor, "alive", process)))
    net.say(2, ToNode(TWO, LookupActor(other)))
    net.say(1, ToNode(second, LookupActor(ACTOR)))
    for process in (host, second):
        net.say(1, Gone(WorkerDied(process, 8, "was killed")))
    lose_the_second(net)
    net.place(1, process_id(b"again-", 1))
    (brought,) = net.told(1, Bring)
    assert brought.restore.witnesses == [ONE]
    assert sorted(brought.restore.actors) == [other, caller]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "create", "placed", "alive", "gone", "silence", "beat", "saved"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


@given(STEPS, st.integers(0, 25))
def test_a_replay_comes_to_the_live_state(steps: list[tuple[str, int]], begin: int) -> None:
    """Also from a snapshot taken on the way."""
    net, actors = Net(), 0
    kept: list[Any] = []
    for at, (what, which) in enumerate(steps):
        live = sorted(net.head.nodes)
        if at == begin:
            snapshot = msgspec.msgpack.encode([net.head.snapshot()])
            kept = msgspec.msgpack.decode(snapshot, type=list[Event])
            net.journal = []
        if what == "join":
            net.join(f"node {at}")
        elif not live:
            continue
        number = live[which % len(live)] if live else 0
        worker = process_id(b"work" + bytes([which, 0]), number)
        if what == "create":
            actors += 1
            options = {"class": "A", "resources": {"CPU": 1.0}, "max_restarts": which % 2}
            options["checkpoint_every"] = 1 if which % 2 else None
            actor = process_id(b"maker-", number) + bytes(7) + bytes([actors])
            net.say(number, ToNode(actor[:8], CreateActor(actor, b"k", b"", b"", options)))
        elif what in ("placed", "alive"):
            homes = [one for one, home in net.head._homes.items() if home == number]
            if homes:
                actor = homes[which % len(homes)]
                net.say(number, Placed(actor, worker, 7) if what == "placed" else ToNode(
                    worker, ActorChanged(actor, "alive", worker)
                ))  # fmt: skip
        elif what == "gone":
            net.say(number, Gone(WorkerDied(worker, 7, "was killed")))
        elif what == "saved":
            for actor, host in net.head.head.actors.items():
                checkpoint = Checkpoint(actor, at, 1, 0)
                if node_of(host.process) == number:
                    net.say(number, Saved(host.process, checkpoint, bytes([at])))
        elif what == "beat":
            net.beat(number)
        elif what == "silence":
            net.now += 2.5
            net.head.tick(net.now)
            net.sync()
    again = net.new()
    again.replay(kept + net.journal, net.now)
    assert again.state() == net.head.state()
