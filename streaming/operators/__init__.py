"""The operators, one file each."""

__all__: list[str] = []
