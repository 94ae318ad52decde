"""SIGTERM of a driver: it ends through its exit handlers, and all that it has started with it.

Ray installs such a handler too. This one is there only while an engine runs, and only where the
program has no handler of its own. Forks of the driver (multiprocessing) die of SIGTERM at once, as
they would without it: their handler is taken off before a signal can reach it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["catch", "release"]

_masks = threading.local()
_registered = False


def catch() -> None:
    """Take SIGTERM over, if nobody has; only the main thread may."""
    global _registered
    if not _is_main() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    signal.signal(signal.SIGTERM, _leave)
    if not _registered:  # for good: Python has no way to take these back
        _registered = True
        os.register_at_fork(before=_hold, after_in_parent=_let, after_in_child=_disown)


def release() -> None:
    """Give SIGTERM back, if it is still ours."""
    if _is_main() and _is_ours():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, _frame: object) -> None:
    # Once: a program that swallows SystemExit, as test runners do, dies of the next one.
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_ours() -> bool:
    return signal.getsignal(signal.SIGTERM) is _leave


def _hold() -> None:
    """Before a fork. Python forgets signals that a child gets before its handlers are in place."""
    if _is_ours():
        _masks.old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let() -> None:
    old = getattr(_masks, "old", None)
    if old is not None:
        _masks.old = None
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _disown() -> None:
    if _is_ours():  # the forking thread is the main thread of the child
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let()
