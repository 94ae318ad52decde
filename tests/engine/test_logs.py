"""What workers write reaches the driver's streams, whole and in order, whatever happens to them."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import engine
from engine import exceptions, state
from engine.config import Config
from tests.engine.support import eventually, finished_script, node_pid, run_script

SECONDS = 10.0


class Screen:
    """What has appeared on a captured stream so far."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = self.err = ""

    def look(self) -> Screen:
        found = self._capture.readouterr()
        self.out += found.out
        self.err += found.err
        return self

    def shows(self, text: str, stream: str = "out") -> None:
        """Wait until the text is there."""
        eventually(lambda: text in getattr(self.look(), stream), SECONDS, f"{text!r} in {self}")

    def __repr__(self) -> str:
        return f"Screen({self.out!r}, {self.err!r})"


@pytest.fixture
def screen(capsys: pytest.CaptureFixture[str]) -> Screen:
    return Screen(capsys)


@pytest.fixture
def own(leak_check: None) -> Iterator[Any]:
    """An engine of this test alone."""
    assert not engine.is_initialized()
    engine.init(num_cpus=2)
    yield engine
    engine.shutdown()


# ---------------------------------------------------------------------------------- what is shown


def test_prints_come_with_name_and_pid_on_their_streams(cluster: Any, screen: Screen) -> None:
    @cluster.remote
    def speak(mark: str) -> int:
        print("out", mark)
        print("err", mark, file=sys.stderr)
        return os.getpid()

    pid = cluster.get(speak.remote("äöü"), timeout=SECONDS)
    screen.shows(f"(speak pid={pid}) out äöü\n")
    screen.shows(f"(speak pid={pid}) err äöü\n", "err")
    assert "err äöü" not in screen.out
    assert "out äöü" not in screen.err
    named = speak.options(name="orator", num_cpus=2)
    cluster.get(named.remote("named"), timeout=SECONDS)
    screen.shows("(orator pid=")
    cluster.get(speak.options(num_cpus=2).remote("again"), timeout=SECONDS)
    eventually(lambda: re.search(r"\(speak pid=\d+\) out again\n", screen.look().out), SECONDS)


def test_an_actor_is_called_by_its_class_or_its_repr(cluster: Any, screen: Screen) -> None:
    class Plain:
        def speak(self) -> None:
            print("plain speaks")

    class Named(Plain):
        def __init__(self) -> None:
            self.name = "Ada"

        def __repr__(self) -> str:
            return f"Named({self.name})"

    class Broken(Plain):
        def __repr__(self) -> str:
            raise RuntimeError("no name")

    actors = [cluster.remote(cls).remote() for cls in (Plain, Named, Broken)]
    cluster.get([actor.speak.remote() for actor in actors], timeout=SECONDS)
    cluster.get([actor.speak.options(name="again").remote() for actor in actors], timeout=SECONDS)
    for name in ("Plain", "Named(Ada)", "Broken"):
        eventually(lambda name=name: re.search(
            rf"^\({re.escape(name)} pid=\d+\) plain speaks$", screen.look().out, re.MULTILINE
        ), SECONDS)  # fmt: skip


def test_c_code_and_children_are_heard(cluster: Any, screen: Screen) -> None:
    @cluster.remote
    def speak() -> None:
        os.write(1, b"from a descriptor\n")
        libc = ctypes.CDLL(None)
        libc.puts(b"from C")
        libc.fflush(None)
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)

    cluster.get(speak.remote(), timeout=SECONDS)
    for text in ("from a descriptor", "from C", "from a child"):
        screen.shows(f") {text}\n")


def test_the_lines_of_each_worker_are_in_order(cluster: Any, screen: Screen) -> None:
    @cluster.remote
    def count(name: str) -> None:
        for number in range(3000):
            print(f"{name} {number}")

    cluster.get([count.remote(name) for name in "abc"], timeout=SECONDS)
    for name in "abc":
        screen.shows(f"{name} 2999\n")
        found = re.findall(rf"\) {name} (\d+)$", screen.out, re.MULTILINE)
        assert found == [str(number) for number in range(3000)]


def test_what_was_said_just_before_a_kill_is_heard(cluster: Any, screen: Screen) -> None:
    @cluster.remote(max_retries=0)
    def last(mark: str) -> None:
        print("whole", mark)
        sys.stdout.write(f"half {mark}")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(exceptions.WorkerCrashedError):
        cluster.get(last.remote("one"), timeout=SECONDS)
    screen.shows("whole one\n")
    screen.shows("half one\n")


def test_progress_bars_and_long_lines_are_one_line(cluster: Any, screen: Screen) -> None:
    @cluster.remote
    def bar() -> None:
        for percent in range(101):
            sys.stderr.write(f"\rdone {percent}%")
        sys.stderr.write("\n")
        print("x" * 100_000 + "end")

    cluster.get(bar.remote(), timeout=SECONDS)
    screen.shows("done 100%\n", "err")
    assert "99%" not in screen.err
    screen.shows("more bytes were cut off]\n")
    (line,) = re.findall(r"x{1000,}.*", screen.out)
    limit = Config().log_line_bytes_max
    assert line == "x" * limit + f" ... [{100_003 - limit:,} more bytes were cut off]"


def test_repeated_lines_are_counted(own: Any, screen: Screen, tmp_path: Path) -> None:
    @own.remote(num_cpus=0)
    def same(number: int) -> None:
        (tmp_path / str(number)).touch()
        eventually(lambda: len(list(tmp_path.iterdir())) == 4)  # four workers, not one
        print("the same for all")

    own.get([same.remote(number) for number in range(4)], timeout=SECONDS)
    screen.shows("the same for all\n")
    own.shutdown()
    screen.look()
    assert screen.out.count("the same for all") == 2
    assert re.search(r"the same for all \[repeated 3x across 3 workers\]", screen.out)


def test_the_driver_prints_as_ever_and_may_be_closed(cluster: Any, screen: Screen) -> None:
    @cluster.remote
    def speak(text: str) -> None:
        print(text)

    print("mine")
    closed = open(os.devnull, "w")  # noqa: SIM115
    closed.close()
    before, sys.stdout = sys.stdout, closed
    try:
        cluster.get(speak.remote("to nobody"), timeout=SECONDS)
        eventually(lambda: state.get_log(task="speak"))
    finally:
        sys.stdout = before
    cluster.get(speak.remote("to somebody"), timeout=SECONDS)
    screen.shows(") to somebody\n")
    assert screen.out.startswith("mine\n")


# ---------------------------------------------------------------------------------- scripts

_SCRIPT = """
import sys, engine
{init}
@engine.remote
def speak(n):
    for number in range(n):
        print("line", number)
    print("error", n, file=sys.stderr)
    return n
{body}
"""


def test_nothing_is_lost_at_the_end(tmp_path: Path) -> None:
    out = finished_script(
        _SCRIPT.format(init="engine.init(num_cpus=2)", body="engine.get(speak.remote(50000))"),
        tmp_path,
    )
    assert re.findall(r"line (\d+)$", out, re.MULTILINE) == [str(n) for n in range(50000)]
    assert "\033" not in out, "no colour but on a terminal"


def test_a_task_that_still_runs_at_shutdown_is_heard(tmp_path: Path) -> None:
    body = """
import os, time
@engine.remote
def stay(path):
    print("before the end")
    open(path, "w").close()
    time.sleep(600)
ref = stay.remote(sys.argv[1])
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""
    text = _SCRIPT.format(init="engine.init(num_cpus=1)", body=body)
    assert "before the end" in finished_script(text, tmp_path, str(tmp_path / "started"))


def test_lines_can_be_kept_from_the_driver(tmp_path: Path) -> None:
    body = """
engine.get(speak.remote(3))
print(sorted(engine.state.get_log(task="speak")))
engine.shutdown()
"""
    init = "engine.init(num_cpus=1, log_to_driver=False)"
    out = finished_script(_SCRIPT.format(init=init, body=body), tmp_path)
    assert out == "['error 3', 'line 0', 'line 1', 'line 2']\n"


def test_a_stream_that_cannot_show_a_character_shows_its_escape(tmp_path: Path) -> None:
    body = """
@engine.remote
def speak():
    print("grüße")
sys.stdout.reconfigure(encoding="ascii")
engine.get(speak.remote())
"""
    out = finished_script(_SCRIPT.format(init="engine.init(num_cpus=1)", body=body), tmp_path)
    assert out.endswith(") gr\\xfc\\xdfe\n")


def test_a_terminal_gets_colour(tmp_path: Path) -> None:
    main, terminal = os.openpty()
    path = tmp_path / "script.py"
    path.write_text(
        _SCRIPT.format(init="engine.init(num_cpus=1)", body="engine.get(speak.remote(1))")
    )
    root = str(Path(engine.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([sys.executable, str(path)], stdout=terminal, env=environment)
    os.close(terminal)
    found = b""
    try:
        while part := _read_terminal(main):
            found += part
    finally:
        process.kill()
        process.wait()
        os.close(main)
    assert re.search(rb"\033\[36m\(speak pid=\d+\)\033\[0m line 0", found)


def _read_terminal(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:  # how a terminal ends
        return b""


# ---------------------------------------------------------------------------------- backpressure


def test_a_flood_waits_for_a_slow_reader_and_disturbs_nobody(tmp_path: Path) -> None:
    """The driver's stdout is a pipe that nobody reads for a while: the printing worker waits, other
    work goes on, and neither node nor driver grow. Then everything arrives."""
    text = """
import os, psutil, sys, engine
engine.init(num_cpus=2)

@engine.remote
def flood():
    for number in range(60_000):
        os.write(1, b"line %d " % number + b"x" * 200 + b"\\n")

@engine.remote
def quick(x):
    return x

def sizes():
    return [psutil.Process(pid).memory_info().rss for pid in (node, os.getpid())]

node = psutil.Process().children()[0].pid
engine.get([quick.remote(x) for x in range(100)])
before = sizes()
ref = flood.remote()
for _ in range(12):
    engine.wait([ref], timeout=0.05)
    assert engine.get([quick.remote(x) for x in range(20)], timeout=5) == list(range(20))
assert engine.wait([ref], timeout=0) == ([], [ref]), "it waits"
grown = [after - one for after, one in zip(sizes(), before)]
print(grown, file=sys.stderr, flush=True)
engine.get(ref, timeout=30)
"""
    process = run_script(text, tmp_path, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        grown = process.stderr.readline()
        assert max(map(int, re.findall(r"-?\d+", grown))) < 8 << 20, grown
        out, err = process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 0, err
    numbers = re.findall(r"^\(flood pid=\d+\) line (\d+) x{200}$", out, re.MULTILINE)
    assert numbers == [str(number) for number in range(60_000)]


def test_a_flood_that_nobody_is_shown_does_not_grow_the_node(leak_check: None) -> None:
    engine.init(num_cpus=1, log_to_driver=False)
    try:

        @engine.remote
        def flood() -> None:
            for _ in range(1_000):
                os.write(2, b"y" * 9_999 + b"\n")

        before = psutil.Process(node_pid()).memory_info().rss
        engine.get(flood.remote(), timeout=SECONDS)
        kept = state.get_log(task="flood", tail=-1)
        assert 64 <= sum(map(len, kept)) / 1000 <= 200
        assert psutil.Process(node_pid()).memory_info().rss - before < 4 << 20
    finally:
        engine.shutdown()


# ---------------------------------------------------------------------------------- kept lines


def test_logs_can_be_read_by_pid_actor_and_task(cluster: Any) -> None:
    @cluster.remote
    class Talker:
        def speak(self, count: int) -> int:
            for number in range(count):
                print("talk", number)
            print("complaint", file=sys.stderr)
            return os.getpid()

    talker = Talker.remote()
    pid = cluster.get(talker.speak.remote(300), timeout=SECONDS)
    lines = [f"talk {number}" for number in range(300)]
    assert state.get_log(pid=pid, stream="stdout", tail=-1) == lines
    assert state.get_log(actor_id=talker, stream="stdout") == lines[200:]
    assert state.get_log(actor_id=talker._actor_id.hex(), stream="stderr") == ["complaint"]
    assert state.get_log(task="Talker", stream="stdout", tail=1) == ["talk 299"]
    assert state.get_log(pid=pid, tail=0) == []
    (record,) = [one for one in state.list_logs() if one["pid"] == pid]
    assert (record["name"], record["lines"], record["alive"]) == ("Talker", 301, True)
    cluster.kill(talker)
    eventually(lambda: not next(o for o in state.list_logs() if o["pid"] == pid)["alive"])
    assert state.get_log(pid=pid, stream="stdout", tail=2) == lines[298:], "of the dead, too"
    assert state.get_log(actor_id=talker, stream="stderr") == ["complaint"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "exactly one"),
        ({"pid": 1, "task": "f"}, "exactly one"),
        ({"pid": 1, "stream": "both"}, "'stdout', 'stderr'"),
        ({"pid": 1, "tail": -2}, "number of lines"),
        ({"pid": 1}, "nothing is kept of 1; workers that live: .*pid"),
        ({"task": "no such"}, "nothing is kept of no such"),
        ({"actor_id": "00" * 16}, "nothing is kept of actor 0000"),
    ],
)
def test_questions_that_have_no_answer(
    cluster: Any, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        state.get_log(**arguments)


# ---------------------------------------------------------------------------------- errors


def test_the_error_of_a_crash_ends_with_the_last_lines_on_stderr(cluster: Any) -> None:
    @cluster.remote(max_retries=0)
    def exhausted() -> None:
        for number in range(30):
            print("warning", number, file=sys.stderr)
        os._exit(3)

    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        cluster.get(exhausted.remote(), timeout=SECONDS)
    assert str(caught.value).endswith("\n  warning 28\n  warning 29")
    assert "Its last lines on stderr" in str(caught.value)


def test_a_segmentation_fault_names_the_line(cluster: Any) -> None:
    @cluster.remote(max_retries=0)
    def careless() -> None:
        ctypes.string_at(0)

    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        cluster.get(careless.remote(), timeout=SECONDS)
    text = str(caught.value)
    assert "SIGSEGV" in text
    assert "Fatal Python error: Segmentation fault" in text
    assert re.search(r'File ".*test_logs.py", line \d+ in careless', text)
    assert "engine/runtime" not in text


def test_the_error_of_a_dead_actor_has_them_too_and_a_kill_by_hand_does_not(
    cluster: Any,
) -> None:
    @cluster.remote
    class Talker:
        def leave(self, code: int) -> None:
            print("I am leaving", file=sys.stderr)
            if code:
                os._exit(code)

    talker, other = Talker.remote(), Talker.remote()
    with pytest.raises(exceptions.ActorDiedError) as caught:
        cluster.get(talker.leave.remote(4), timeout=SECONDS)
    assert str(caught.value).endswith("Its last lines on stderr:\n  I am leaving")
    assert re.search(r"exited with code 4.*Talker\.leave", str(caught.value))
    cluster.get(other.leave.remote(0), timeout=SECONDS)
    cluster.kill(other)
    with pytest.raises(exceptions.ActorDiedError) as caught:
        cluster.get(other.leave.remote(0), timeout=SECONDS)
    assert "I am leaving" not in str(caught.value)


def test_pipes_close_with_their_workers_and_outlive_them_for_children(
    own: Any, tmp_path: Path
) -> None:
    """A child of a worker that has ended goes on printing; nothing stays once it ends as well."""

    @own.remote(max_retries=0)
    def abandon(path: str) -> None:
        code = "import sys; sys.stdin.read(); print('orphan speaks', flush=True)"
        with open(path) as stdin:
            subprocess.Popen([sys.executable, "-c", code], stdin=stdin)
        os._exit(1)

    inherited = _pipes_beside_workers()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    ref = abandon.remote(str(fifo))
    with open(fifo, "w"):
        with pytest.raises(exceptions.WorkerCrashedError):
            own.get(ref, timeout=SECONDS)
        assert _pipes_beside_workers() == inherited + 2
    eventually(lambda: any(one["name"] == "abandon" and one["lines"] for one in state.list_logs()))
    assert state.get_log(task="abandon") == ["orphan speaks"]
    eventually(lambda: _pipes_beside_workers() == inherited)


def _pipes_beside_workers() -> int:
    """Pipes of the node that belong to no living worker."""
    alive = sum(one["alive"] for one in state.list_logs())
    links = [os.readlink(one.path) for one in os.scandir(f"/proc/{node_pid()}/fd")]
    return sum(link.startswith("pipe:") for link in links) - 2 * alive
