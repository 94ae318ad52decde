"""Preloading leaves every kernel loaded in this process and in those forked from it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from graph import compiled

PROGRAM = """
import os, sys
from graph.preload import preload
preload()
import graph.kernels.pagerank as kernels
before = len(kernels.pull.overloads)
assert before, "nothing was loaded"
child = os.fork()
if child == 0:
    import graph
    g = graph.from_edges([0, 1, 2], [1, 2, 0])
    graph.pagerank(g, parallelism=2, inline=True)
    os._exit(0 if len(kernels.pull.overloads) == before else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not compiled.AVAILABLE, reason="numba is not installed")
def test_a_forked_process_needs_to_load_nothing() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_importing_graph_does_not_import_numba() -> None:
    check = "import sys, graph; sys.exit('numba' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
