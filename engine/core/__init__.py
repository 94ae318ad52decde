"""Pure state machines: events in, effects out; no clock, no randomness, no I/O."""

__all__: list[str] = []
