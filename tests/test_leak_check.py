"""The leak check itself: it has to see what it promises to see."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import leaks

FAST_EXIT_SECONDS = 0.05


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests leak on purpose: no need to wait for the leak to go away."""
    monkeypatch.setattr(leaks, "EXIT_SECONDS_MAX", FAST_EXIT_SECONDS)


@pytest.mark.usefixtures("short_patience")
class TestSees:
    """One leak each, seen while it lasts and not any more once it is mended."""

    def test_a_process(self, tmp_path: Path) -> None:
        before = leaks.census()
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            left = leaks.settle(before, tmp_path)
            assert any(f"process {child.pid}" in line for line in left)
        finally:
            child.communicate()
        assert leaks.settle(before, tmp_path) == []

    def test_a_thread(self, tmp_path: Path) -> None:
        before = leaks.census()
        end = threading.Event()
        thread = threading.Thread(target=end.wait, name="forgotten")
        thread.start()
        try:
            assert [line.split()[-1] for line in leaks.settle(before, tmp_path)] == ["forgotten"]
        finally:
            end.set()
            thread.join()
        assert leaks.settle(before, tmp_path) == []

    def test_an_orphan(self, tmp_path: Path) -> None:
        """The child of a child that has ended: invisible unless orphans are adopted."""
        before = leaks.census()
        leaks.adopt_orphans(True)
        try:
            inner = "import os, sys; os.fork() or (os.setsid(), sys.stdin.read())"
            parent = subprocess.Popen([sys.executable, "-c", inner], stdin=subprocess.PIPE)
            parent.wait()
            left = leaks.settle(before, tmp_path)
            assert any(line.startswith("process") for line in left)
            assert parent.stdin is not None
            parent.stdin.close()
            os.wait()
        finally:
            leaks.adopt_orphans(False)
        assert leaks.settle(before, tmp_path) == []

    def test_a_socket_file_and_its_descriptor(self, tmp_path: Path) -> None:
        before = leaks.census()
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(path))
            left = leaks.settle(before, tmp_path)
            assert f"socket file {path}" in left
            assert any("socket:" in line for line in left)
        path.unlink()
        assert leaks.settle(before, tmp_path) == []

    def test_anonymous_shared_memory(self, tmp_path: Path) -> None:
        before = leaks.census()
        descriptor = os.memfd_create("segment")
        assert any("memfd" in line for line in leaks.settle(before, tmp_path))
        os.close(descriptor)
        assert leaks.settle(before, tmp_path) == []


@pytest.mark.usefixtures("leak_check")
def test_passes_a_clean_test() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)
