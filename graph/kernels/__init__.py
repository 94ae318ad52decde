"""Compiled inner loops (numba), one file an algorithm; twins of ``graph.vectorised``."""

__all__: list[str] = []
