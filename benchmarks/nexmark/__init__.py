"""Nexmark: the auction stream, its queries, their check against DuckDB, and their speed."""

__all__: list[str] = []
