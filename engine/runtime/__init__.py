"""What a process does: driver, worker, node, zygote; the only place where the parts meet."""

__all__: list[str] = []
