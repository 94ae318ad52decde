"""Where streams begin: the `Source` base, and one file per connector."""

__all__: list[str] = []
