"""What may differ from one run to the next, handed out so that a replay can repeat it.

In an actor with `checkpoint_every` and `replayable=True` these functions, and the outcome of
`engine.wait`, are logged beside the order of its calls (see `engine.core.order`); when the actor is
replayed they say again what they said. Elsewhere they just say it.
"""

from __future__ import annotations

import random as _random
import secrets
import time
from typing import Any

from engine.session import runtime

__all__ = ["now", "random"]


def now() -> float:
    """Seconds since the epoch, like `time.time`."""
    found: float = _event(time.time)
    return found


def random() -> _random.Random:
    """A generator with a fresh seed; a replay gets the same seed again."""
    return _random.Random(_event(lambda: secrets.randbits(63)))


def _event(fresh: Any) -> Any:
    event = runtime().event
    return fresh() if event is None else event(fresh)
