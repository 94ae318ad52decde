"""Where streams end: the `Sink` base, and one file per kind."""

__all__: list[str] = []
