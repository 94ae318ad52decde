"""For tests of programs that use the engine."""

from __future__ import annotations

from engine.session import runtime

__all__ = ["reference_counts"]


def reference_counts() -> dict[str, dict[str, int]]:
    """What this process holds: id in hex -> {"local": n, "submitted": n}.

    `local` counts live `ObjectRef` objects, `submitted` unanswered calls that have the object as
    an argument.
    """
    home = runtime()
    with home.lock:
        home.drain()
        counts = {
            object_id.hex(): {"local": entry.local, "submitted": 0}
            for object_id, entry in home.owner.objects.entries.items()
            if object_id not in home.owner.objects.farewells
        }
        seen = set()
        for entry in list(home.owner.objects.entries.values()):
            task = entry.task
            if task is None or task.id in seen:
                continue
            seen.add(task.id)
            for dep in task.deps or ():
                if dep.hex() in counts:
                    counts[dep.hex()]["submitted"] += 1
                    counts[dep.hex()]["local"] -= 1  # held by the call, not by a variable
    return counts
