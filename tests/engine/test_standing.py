"""A node that stands: drivers come and go, are killed, and what they had begun ends with them."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import engine
from engine import cli
from engine.exceptions import ActorDiedError, NodeDiedError
from engine.runtime.address import LOG, SOCKET, TOKEN, TOKEN_BYTES
from tests.engine.support import ROOT, alive, eventually, finished_script, gone, kill9, run_script


def penstock(*args: str, code: int = 0) -> str:
    """Run the command line; its output."""
    done = subprocess.run(
        [sys.executable, "-c", "from engine.cli import main; main()", *args],
        capture_output=True, text=True, timeout=30, env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def penstock_forked(*args: str) -> str:
    """The same in a fork of this process, which has imported everything; for where it must work.

    Not where the engine runs: a fork has none of its threads.
    """
    with tempfile.TemporaryFile("w+") as said:
        pid = os.fork()
        if not pid:
            code: Any = 1
            try:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115
                cli.app(args)
            except SystemExit as end:
                code = end.code
            except BaseException:  # what a process of its own would say before it ends
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code or 0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said.seek(0)
        text = said.read()
    assert code == 0, f"{code}\n{text}"
    return text


class Standing:
    """A node in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"unix:{directory}"
        self.pid = 0

    def start(self) -> None:
        """Start it, with two CPUs."""
        command = penstock if engine.is_initialized() else penstock_forked
        said = command("start", "--head", "--num-cpus", "2", "--directory", str(self.directory))
        self.pid = int(said.split("(pid ")[1].split(")")[0])

    def family(self) -> list[int]:
        """The node and all its processes."""
        node = psutil.Process(self.pid)
        return [self.pid, *(one.pid for one in node.children(recursive=True))]


@pytest.fixture
def standing(
    leak_check: None, no_engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Standing]:
    """A node that stands, stopped at the end unless the test has."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    node = Standing(tmp_path / "node")
    node.start()
    try:
        yield node
    finally:
        engine.shutdown()
        if alive(node.pid):
            penstock_forked("stop", "--address", node.address)
        eventually(lambda: not alive(node.pid))


BUSY = """
import os, sys, time
import numpy as np
import engine

engine.init(address=sys.argv[1])

@engine.remote
def sleep():
    time.sleep(600)

@engine.remote
def nested():
    return engine.get(sleep.remote())

@engine.remote
class Counter:
    def __init__(self):
        self.n = 0
        self.big = engine.put(np.ones(1 << 18))
    def add(self, k=1):
        self.n += k
        return self.n
    def pid(self):
        return os.getpid()

own = Counter.options(name="own").remote()
kept = Counter.options(name="kept", lifetime="detached", max_restarts=1).remote()
engine.get([own.add.remote(), kept.add.remote(3)])
big = engine.put(np.ones(1 << 20))
refs = [nested.remote()]
pids = [engine.get(own.pid.remote()), engine.get(kept.pid.remote())]
print(*pids, flush=True)
engine.get(refs)
"""


def busy_driver(node: Standing, folder: Path) -> tuple[subprocess.Popen[str], int, int]:
    """A driver in the middle of its work, and the pids of its own and its detached actor."""
    process = run_script(BUSY, folder, node.address)
    assert process.stdout is not None
    own, kept = map(int, process.stdout.readline().split())
    return process, own, kept


def used() -> tuple[float, int]:
    """CPUs that somebody has, and bytes of the object store."""
    free, total = engine.available_resources(), engine.cluster_resources()
    return total["CPU"] - free["CPU"], engine.nodes()[0]["object_store_used"]


def test_it_is_private_and_leaves_nothing(standing: Standing) -> None:
    directory = standing.directory
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in directory.iterdir()}
    assert modes == {SOCKET: 0o600, TOKEN: 0o600, LOG: 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert psutil.Process(standing.pid).net_connections("inet") == []
    engine.init(address=standing.address)
    family = standing.family()
    assert engine.get(engine.remote(lambda: 5).remote()) == 5
    family += standing.family()
    engine.shutdown()
    assert "has stopped" in penstock("stop", "--address", standing.address)
    assert gone(family)
    assert not directory.exists()
    assert "no such place" in penstock("stop", "--address", standing.address, code=1)


def test_status_and_list(standing: Standing, tmp_path: Path) -> None:
    driver, _own, _kept = busy_driver(standing, tmp_path)
    said = penstock("status", "--address", standing.address)
    assert "programs: 1" in said
    assert f"pid {driver.pid}: " in said
    assert "actors: 2, 1 of them detached" in said
    assert "'kept' in 'default': ALIVE" in said
    listed = json.loads(penstock("list", "actors", "--json", "--address", standing.address))
    assert {one["name"] for one in listed} == {"own", "kept"}
    assert "expected one of actors" in penstock("list", "bees", code=1)
    assert "lives in" in penstock(
        "start", "--head", "--directory", str(standing.directory), code=1
    )
    kill9(driver.pid)
    driver.communicate()


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_a_driver_ends_alone(standing: Standing, tmp_path: Path, end: str) -> None:
    engine.init(address=standing.address)
    mine = engine.remote(_Counter).remote()
    assert engine.get(mine.add.remote(2)) == 2
    one = engine.put(bytes(1 << 20))
    before = used()
    driver, own, kept = busy_driver(standing, tmp_path)
    workers = [pid for pid in standing.family() if pid != kept]
    eventually(lambda: used()[0] > before[0])
    kill9(driver.pid) if end == "kill" else driver.terminate()
    driver.communicate()
    eventually(lambda: not alive(own))
    eventually(lambda: used()[0] == before[0], what="leases of the dead driver")
    detached = engine.get_actor("kept")
    assert engine.get(detached.add.remote()) == 4
    assert engine.get(detached.pid.remote()) == kept
    with pytest.raises(ValueError, match="no actor named 'own'"):
        engine.get_actor("own")
    assert engine.get(mine.add.remote(1)) == 3, "another driver's actor goes on"
    assert engine.get(one) == bytes(1 << 20)
    jobs = {job.driver_info["pid"]: job.status for job in engine.state.list_jobs()}
    ended = "SUCCEEDED" if end == "exit" else "FAILED"
    assert jobs == {str(os.getpid()): "RUNNING", str(driver.pid): ended}
    assert standing.pid in workers
    engine.kill(detached)
    eventually(lambda: used()[1] <= before[1], what="memory of the dead driver")


class _Counter:
    def __init__(self) -> None:
        self.n = 0

    def add(self, k: int = 1) -> int:
        self.n += k
        return self.n


def test_a_detached_actor_restarts_without_its_driver(standing: Standing, tmp_path: Path) -> None:
    driver, _own, kept = busy_driver(standing, tmp_path)
    kill9(driver.pid)
    driver.communicate()
    engine.init(address=standing.address)
    actor = engine.get_actor("kept")
    assert engine.get(actor.add.remote()) == 4
    kill9(kept)
    eventually(lambda: _answers(actor), what="the restarted actor")
    (record,) = engine.state.list_actors(filters=[("name", "=", "kept")], detail=True)
    assert record.num_restarts == 1
    kill9(engine.get(actor.pid.remote()))
    eventually(lambda: not engine.state.list_actors(filters=[("state", "!=", "DEAD")]))
    with pytest.raises(ActorDiedError):
        engine.get(actor.add.remote())


def test_a_detached_actor_puts_to_last_without_its_driver(
    standing: Standing, tmp_path: Path
) -> None:
    script = """
import sys
import engine
import numpy as np
engine.init(address=sys.argv[1])
@engine.remote
class Maker:
    def make(self):
        self.ref = engine.put(np.ones(1 << 18), durable=True)
        return [self.ref]
maker = Maker.options(name="maker", lifetime="detached").remote()
print(engine.get(engine.get(maker.make.remote())[0]).sum())
"""
    assert finished_script(script, tmp_path, standing.address) == "262144.0\n"
    engine.init(address=standing.address)
    maker = engine.get_actor("maker")
    (ref,) = engine.get(maker.make.remote(), timeout=10)
    assert engine.get(ref).sum() == 1 << 18


def _answers(actor: Any) -> bool:
    try:
        return bool(engine.get(actor.add.remote()))
    except engine.exceptions.ActorError:  # a call under way at its death
        return False


def test_lines_go_to_the_driver_whose_work_prints_them(standing: Standing, tmp_path: Path) -> None:
    script = """
import sys
import engine
engine.init(address=sys.argv[1])
@engine.remote
class Talker:
    def say(self, what):
        print(what)
talker = Talker.options(name="talker", lifetime="detached", get_if_exists=True).remote()
engine.get([talker.say.remote(f"{sys.argv[2]} speaks"),
            engine.remote(lambda: print(sys.argv[2], "works")).remote()])
"""
    script = script.replace("lambda: print(sys.argv[2]", "lambda who=sys.argv[2]: print(who")
    first = finished_script(script, tmp_path, standing.address, "first")
    assert "first works" in first
    assert "first speaks" in first
    second = finished_script(script, tmp_path, standing.address, "second")
    assert "second works" in second
    assert "speaks" not in second, "the actor is the first driver's"
    engine.init(address=standing.address)
    actor = engine.get_actor("talker")
    # More than a pipe and a window hold: nobody listens, so nobody may wait.
    engine.get([actor.say.remote("x" * 10_000) for _ in range(300)], timeout=20)


def test_work_imports_what_its_driver_can(standing: Standing, tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.py").write_text(f"NAME = {name!r}\nWHERE = __file__\n")
        script = """
import os, sys
import engine
engine.init(address=sys.argv[1], runtime_env={"env_vars": {"WHO": "me"}})
@engine.remote
def look():
    import mine
    return mine.NAME, os.getcwd(), os.environ["WHO"]
print(engine.get(look.remote()))
assert dict(engine.get_runtime_context().runtime_env) == {"env_vars": {"WHO": "me"}}
"""
        (folder / "run").mkdir()
        out = finished_script(
            f"import sys; sys.path.insert(0, {str(folder)!r})\n" + script, folder, standing.address
        )
        assert name in out
        assert str(Path.cwd()) in out


def test_a_killed_node_leaves_no_process_and_is_replaced(
    standing: Standing, tmp_path: Path
) -> None:
    driver, _own, _kept = busy_driver(standing, tmp_path)
    family = standing.family()
    eventually((standing.directory / "journal.db").exists)  # it is written behind
    kill9(standing.pid)
    eventually(lambda: gone(family))
    driver.communicate(timeout=10)
    assert driver.returncode == 1
    assert (standing.directory / SOCKET).exists()
    with pytest.raises(ConnectionError, match="penstock start --head"):
        engine.init(address=standing.address)
    standing.start()
    engine.init(address=standing.address)
    assert engine.get(engine.remote(lambda: 1).remote()) == 1
    engine.shutdown()
    kill9(standing.pid)
    said = penstock("stop", "--address", standing.address)
    assert "what a killed one had left is removed" in said
    left = {path.name for path in standing.directory.iterdir()}
    assert left == {"journal.db", "journal.db-shm", "journal.db-wal"}, "of the detached actor"


def test_a_stopped_node_fails_what_waits_for_it(standing: Standing) -> None:
    engine.init(address=standing.address)
    waiting = engine.remote(_sleep).remote()
    penstock("stop", "--address", standing.address)
    with pytest.raises(NodeDiedError):
        engine.get(waiting, timeout=10)


def _sleep() -> None:
    import time

    time.sleep(600)


def test_a_node_that_hangs_is_killed(standing: Standing) -> None:
    from engine.runtime.standing import halt

    psutil.Process(standing.pid).suspend()
    assert "was killed" in halt(standing.directory, 0.2)
    assert not standing.directory.exists()


def test_a_driver_that_leaves_hears_its_workers_out(standing: Standing, tmp_path: Path) -> None:
    script = """
import sys
import engine
engine.init(address=sys.argv[1])
@engine.remote
def talk():
    for i in range(20000):
        print("line", i)
engine.get(talk.remote())
"""
    out = finished_script(script, tmp_path, standing.address)
    assert "line 19999" in out
    assert out.count("line") == 20000


# ------------------------------------------------------------------------------- who comes in


def _turned_away(standing: Standing, *parts: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(standing.directory / SOCKET))
        for part in parts:
            sock.sendall(part)
        try:
            assert sock.recv(10) == b""
        except ConnectionResetError:  # the same, with what was sent unread
            return


def test_nobody_comes_in_without_the_token(standing: Standing) -> None:
    token = (standing.directory / TOKEN).read_bytes()
    assert len(token) == TOKEN_BYTES
    wrong = bytes([token[0] ^ 1]) + token[1:]
    evil = (50).to_bytes(4, "little") + b"\x80\x04cos\nsystem\n(S'touch x'\ntR."
    _turned_away(standing, wrong)
    _turned_away(standing, wrong[:-1], wrong[-1:])
    _turned_away(standing, evil + bytes(TOKEN_BYTES))
    _turned_away(standing, token, (1 << 31).to_bytes(4, "little"))  # let in, and then nonsense
    _turned_away(standing, token, (4).to_bytes(4, "little") + b"\xc1\xc1\xc1\xc1")
    assert (standing.directory / LOG).read_text().count("without the token") == 3
    engine.init(address=standing.address)
    assert engine.get(engine.remote(lambda: 1).remote()) == 1
    (standing.directory / TOKEN).write_bytes(wrong)
    engine.shutdown()
    with pytest.raises(ConnectionError, match="does not let this process in"):
        engine.init(address=standing.address)
    (standing.directory / TOKEN).write_bytes(token)


@pytest.mark.slow
def test_who_says_nothing_is_turned_away(standing: Standing) -> None:
    _turned_away(standing)
    assert "showed no token" in (standing.directory / LOG).read_text()


def test_a_node_without_descriptors_lets_nobody_in_and_lives(standing: Standing) -> None:
    engine.init(address=standing.address)
    open_ones = set(map(int, os.listdir(f"/proc/{standing.pid}/fd")))
    following = min(set(range(len(open_ones) + 1)) - open_ones)
    soft, hard = resource.prlimit(standing.pid, resource.RLIMIT_NOFILE)
    # What is kept back stays: a worker that is just being started needs some of it.
    resource.prlimit(standing.pid, resource.RLIMIT_NOFILE, (following, hard))
    log = standing.directory / LOG
    with contextlib.ExitStack() as knocking:

        def is_full() -> bool:
            sock = knocking.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(1.0)
            sock.connect(str(standing.directory / SOCKET))
            return "nobody can come in" in log.read_text()

        eventually(is_full)  # the node may have had something open while we looked
        assert engine.cluster_resources()["CPU"] == 2
    resource.prlimit(standing.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_a_directory_that_others_may_enter_is_refused(
    standing: Standing, tmp_path: Path
) -> None:
    standing.directory.chmod(0o750)
    with pytest.raises(PermissionError, match="chmod 700"):
        engine.init(address=standing.address)
    standing.directory.chmod(0o700)
    (tmp_path / "open").mkdir(mode=0o755)
    said = penstock("start", "--head", "--directory", str(tmp_path / "open"), code=1)
    assert "chmod 700" in said


def test_what_init_says_about_addresses(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address, what in {
        "10.0.0.1:7420": "several hosts are not there yet",
        "ray://head:10001": "several hosts are not there yet",
        "somewhere": 'expected "auto"',
        "unix:relative": "several hosts|expected",
        "auto": "penstock start --head",
    }.items():
        with pytest.raises(ConnectionError, match=what):
            engine.init(address=address)
    with pytest.raises(ValueError, match="has its own num_cpus, labels"):
        engine.init(address=standing.address, num_cpus=2, labels={"a": "b"})
    assert not engine.is_initialized()
    monkeypatch.setenv("ENGINE_ADDRESS", standing.address)
    for address in (None, "auto"):
        context = engine.init(address=address, namespace="team")
        assert context["namespace"] == "team"
        assert engine.get(engine.remote(_namespace).remote()) == "team"
        assert psutil.Process(standing.pid).is_running()
        engine.shutdown()


def _namespace() -> str:
    return engine.get_runtime_context().namespace


def test_several_hosts_are_refused() -> None:
    assert "say --head" in penstock("start", code=1)
