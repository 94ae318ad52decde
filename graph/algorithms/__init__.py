"""The algorithm library: one file each, with citation, task and verifier, in that order."""

__all__: list[str] = []
