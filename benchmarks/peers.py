"""Two sides of one comparison, each in a process of its own, taking turns.

A side is a child that answers one JSON line on its standard input with one on its standard output
and otherwise sleeps in `read`; so the side that is not asked takes no time from the other. The
child may run in another interpreter: what it imports must exist there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Side", "SideFailed", "serve"]

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS_MAX = 20
LOG_LINES_SHOWN = 20


class SideFailed(Exception):
    """A side died or answered with an error; the message ends with the last lines it logged."""


class Side:
    """The parent's end: `ask(row=..., seconds=...)` blocks until the child has answered.

    `python` is the interpreter to run `arguments` with (``["-m", "benchmarks.core", ...]``).
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+", prefix=f"side-{name}-")  # noqa: SIM115
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            [python, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            bufsize=1,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request, return the answer. Raises SideFailed with the child's own words."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._child.wait()
            raise SideFailed(f"{self.name} ended with code {code} at {request}:\n{self.log()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideFailed(f"{self.name} at {request}: {answer['error']}")
        return answer

    def log(self) -> str:
        """The last lines that the child wrote to its standard error."""
        self._log.seek(0)
        return "".join(self._log.readlines()[-LOG_LINES_SHOWN:])

    def close(self) -> None:
        """End the child: it stops when its input ends, and is killed if it does not."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()
        self._log.close()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The child's end: answer requests until the input ends.

    The answers get a descriptor of their own and descriptor 1 becomes standard error, so that
    nothing that a library or a worker prints can be taken for an answer.
    """
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            try:
                reply = answer(json.loads(line))
            except Exception as error:
                # Whatever went wrong in a row is reported for that row; the next may still run.
                reply = {"error": f"{type(error).__name__}: {error}"[:2000]}
            answers.write(json.dumps(reply) + "\n")
