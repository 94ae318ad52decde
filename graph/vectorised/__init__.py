"""The same inner loops in NumPy, for machines without numba and as a check of the compiled ones."""

__all__: list[str] = []
