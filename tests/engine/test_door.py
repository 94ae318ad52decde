"""The way to a standing node, and into it, where something is not as it should be."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine import cli
from engine.config import Config
from engine.exceptions import EngineError
from engine.runtime import environments
from engine.runtime.address import SOCKET, TOKEN, TOKEN_BYTES, knock, prepare
from engine.runtime.door import Door
from engine.runtime.driver import begin
from engine.runtime.standing import launch


class Watched:
    """A node with a reactor that does nothing by itself."""

    def __init__(self) -> None:
        self.reactor = self
        self.watched: dict[int, Callable[[], None]] = {}
        self.admitted: list[socket.socket] = []

    def watch(self, fd: int, then: Callable[[], None]) -> None:
        self.watched[fd] = then

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def look_at(self, when: float) -> None:
        pass

    def admit(self, sock: socket.socket, pid: int) -> None:
        self.admitted.append(sock)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "node"
    prepare(folder)
    return folder


@pytest.fixture
def node() -> Watched:
    return Watched()


@pytest.fixture
def door(node: Any, place: Path) -> Iterator[Door]:
    made = Door(node, place)
    yield made
    made.close()


def test_a_guest_may_be_early_late_or_in_parts(door: Door, node: Watched, place: Path) -> None:
    ((listener, on_knock),) = node.watched.items()
    on_knock()  # nobody has knocked
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(place / SOCKET))
        on_knock()
        (on_shown,) = (then for fd, then in node.watched.items() if fd != listener)
        on_shown()  # it has shown nothing
        token = (place / TOKEN).read_bytes()
        guest.sendall(token[:5])
        on_shown()
        assert not node.admitted
        guest.sendall(token[5:])
        on_shown()
    (admitted,) = node.admitted
    admitted.close()
    assert list(node.watched) == [listener]


def test_a_guest_whose_line_is_reset(
    door: Door, node: Watched, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((listener, on_knock),) = node.watched.items()
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(place / SOCKET))
        on_knock()
        (inside,) = door._guests.values()
        inside.sock.sendall(b"unread")
        (on_shown,) = (then for fd, then in node.watched.items() if fd != listener)
    on_shown()
    assert "without the token" in capsys.readouterr().err
    assert list(node.watched) == [listener]


def test_a_node_that_lets_nobody_stand_at_its_door(place: Path) -> None:
    """It does not accept, and no more can wait."""
    (place / TOKEN).write_bytes(bytes(TOKEN_BYTES))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / SOCKET))
        listener.listen(0)
        waiting, _pid = knock(place, 1.0)
        with waiting, pytest.raises((BlockingIOError, TimeoutError)):
            knock(place, 0.05)
    (place / SOCKET).unlink()


def test_a_node_that_does_not_come_up_in_time(leak_check: None, tmp_path: Path) -> None:
    config = Config(start_timeout_seconds=0.001)
    head = begin({"CPU": 1.0}, 64 << 20, str(tmp_path), "default", [], config)
    with pytest.raises(EngineError, match="the node did not start"):
        launch(tmp_path / "node", head, config)


def test_the_command_line_says_that_there_is_no_node(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'nowhere'}"
    done = CliRunner().invoke(cli.app, ["list", "actors", "--address", address])
    assert done.exit_code == 1
    assert "no such place" in done.output


def test_a_worker_whose_drivers_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", ["before"])
    environments._follow_driver({"path": ["its own"], "directory": str(tmp_path / "gone")})
    assert sys.path == ["its own"]
    assert "the driver's directory is gone" in capsys.readouterr().err
