"""Benchmarks: one file a question. They run from the project's folder and are not installed."""

__all__: list[str] = []
