"""Values and memory: codec, shared-memory arena, mapped segments."""

__all__: list[str] = []
