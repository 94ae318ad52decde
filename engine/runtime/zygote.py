"""The zygote: a warm process that forks workers.

It has imported what every worker needs (NumPy, Arrow, the engine), has started no thread and opened
no gRPC channel, so a new worker costs milliseconds and shares the pages. Workers are forked twice:
the child in between exits, the worker becomes a child of the *node* (a sub-reaper), which can then
wait for it, hear its exit status, and have the kernel kill it should the node die.

What a package wants to have loaded in every worker (`engine.preload`) may take seconds: it is done
by a second zygote, forked from the first, which takes over when it is warm.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

from engine.core.control import Fork, Forked, Preload, Preloaded, Stop
from engine.runtime.process import be_first_to_go, die_with_parent, keep_freed_memory, socket_from
from engine.wire.connection import Connection, ConnectionClosed

__all__ = ["serve"]


def serve(sock: socket.socket, node_pid: int, frame_max: int) -> None:
    """Fork workers on request until the node goes; never returns."""
    die_with_parent(node_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm_up()
    _loop(sock, node_pid, frame_max)


def _loop(sock: socket.socket, node_pid: int, frame_max: int) -> None:
    connection = Connection(sock, b"node----", frame_max=frame_max, passing=True)
    while True:
        select.select([sock], [], [])
        try:
            messages = connection.receive()
        except ConnectionClosed:
            os._exit(0)
        for message in messages:
            if isinstance(message, Stop):  # after all that was asked before
                connection.flush()
                os._exit(0)
            if isinstance(message, Preload):
                connection.out.append(Preloaded(_preload(message.what), os.getpid()))
            else:
                _fork(connection, message, node_pid, frame_max)
        connection.flush()


def _preload(what: list[str]) -> str:
    try:
        for one in what:
            module, _, function = one.partition(":")
            getattr(importlib.import_module(module), function)()
    except Exception as error:  # anything user code may raise; the node goes on without
        return f"{type(error).__name__}: {error}"
    gc.collect()
    gc.freeze()
    return ""


def _warm_up() -> None:
    import numpy
    import pyarrow
    import pyarrow.compute

    import engine
    import engine.runtime.worker

    # Workers must not start Arrow's thread pool beside each other on the same cores.
    pyarrow.set_cpu_count(1)
    del numpy, engine
    keep_freed_memory()
    gc.collect()
    gc.freeze()  # a collection in a worker must not touch, and so copy, the shared pages


def _fork(connection: Connection, message: Fork, node_pid: int, frame_max: int) -> None:
    fd = connection.take_descriptor()
    streams = () if message.zygote else (connection.take_descriptor(), connection.take_descriptor())
    reader, writer = os.pipe()
    between = os.fork()
    if between:
        os.close(writer)
        for one in (fd, *streams):
            os.close(one)
        os.waitpid(between, 0)
        pid = int.from_bytes(os.read(reader, 8), "little")  # 0: it died before it could say
        os.close(reader)
        connection.out.append(Forked(message.process, pid))
        return
    between = os.getpid()
    child = os.fork()
    if child:
        os.write(writer, child.to_bytes(8, "little"))
        os._exit(0)
    os.close(writer)
    os.close(reader)
    connection.close()  # with what came for those to be forked next
    _wait_for_parent(between, node_pid)
    if message.zygote:
        gc.unfreeze()
        _loop(socket_from(fd), node_pid, frame_max)
    _take_streams(*streams)
    _become_worker(fd, message)


def _take_streams(out: int, err: int) -> None:
    """Make these descriptors this process's standard output and error: the node reads them."""
    for number, fd in enumerate((out, err), 1):
        os.dup2(fd, number)
        os.close(fd)
    # Not those of the node's start, which may have been a file's: lines leave at their end, in
    # UTF-8 whatever the locale says.
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = os.fdopen(
            number, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _wait_for_parent(between: int, node_pid: int) -> None:
    """Until the process in between is gone; ends this one if it is inherited by a stranger."""
    while (parent := os.getppid()) != node_pid:
        if parent != between:  # the node is dead, if not yet collected by its own parent
            os._exit(1)
        os.sched_yield()
    die_with_parent(node_pid)


def _become_worker(fd: int, message: Fork) -> None:
    from engine.runtime import worker

    be_first_to_go()
    faulthandler.enable(all_threads=False)  # a crash says on stderr which line of Python it was in
    code: Any = 1
    try:
        code = worker.main(socket_from(fd), message.process, message.environment)
    except BaseException:  # the last stop of this process: say what happened, then leave
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
