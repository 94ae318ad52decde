"""What this machine offers to the engine: CPUs, devices, named resources."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from engine.runtime.environments import DEVICES

__all__ = ["accelerator_types", "devices_here", "resources_here"]

_DEVICE_FILES = "/dev/nvidia[0-9]*"
_DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
# "NVIDIA A100-SXM4-40GB" and "Tesla V100-SXM2-16GB": the second word up to the first dash.
_MODEL = re.compile(r"^Model:\s*\w+\s+([A-Z0-9]+)", re.MULTILINE)
_ELSEWHERE = {
    "CPU": "use num_cpus instead",
    "GPU": "use num_gpus instead",
    "object_store_memory": "use init(object_store_memory=) instead",
}


def devices_here() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES spells them."""
    visible = os.environ.get(DEVICES)
    if visible is not None:
        return [one.strip() for one in visible.split(",") if one.strip() not in ("", "-1")]
    return [str(index) for index in range(len(glob.glob(_DEVICE_FILES)))]


def accelerator_types(folder: Path = _DRIVER_FOLDER) -> set[str]:
    """The kinds of GPU of this machine, like "A100"; from what its driver says of itself."""
    models = [_MODEL.search(path.read_text()) for path in folder.glob("*/information")]
    return {found[1] for found in models if found is not None}


def resources_here(
    num_cpus: float | None, num_gpus: float | None, resources: Mapping[str, float] | None
) -> tuple[dict[str, float], list[str]]:
    """The resources to offer, defaults filled in, and the names of the GPUs among them.

    Raises ValueError for what no machine has or this one does not.
    """
    found = devices_here()
    devices = _devices(num_gpus, found)
    total = {"CPU": float(len(os.sched_getaffinity(0)))}
    if num_cpus is not None:
        total["CPU"] = _checked("num_cpus", num_cpus)
    if devices or num_gpus is not None:
        total["GPU"] = float(len(devices))
    if devices and found:
        total |= {f"accelerator_type:{kind}": 1.0 for kind in accelerator_types()}
    if not isinstance(resources or {}, Mapping):
        raise TypeError(f"resources={resources!r}: expected a dict from name to amount")
    for name, amount in (resources or {}).items():
        if name in _ELSEWHERE:
            raise ValueError(f"resources={{{name!r}: ...}}: {_ELSEWHERE[name]}")
        total[name] = _checked(f"resources={{{name!r}: ...}}", amount)
    return total, devices


def _devices(num_gpus: float | None, found: list[str]) -> list[str]:
    if num_gpus is None:
        return found
    count = _checked("num_gpus", num_gpus)
    if count != int(count):
        raise ValueError(f"num_gpus={num_gpus!r}: expected whole devices; tasks may ask for shares")
    if found and DEVICES in os.environ and count > len(found):
        raise ValueError(
            f"num_gpus={num_gpus!r}, but {DEVICES}={os.environ[DEVICES]!r} shows this process "
            f"{len(found)}"
        )
    names = found or list(map(str, range(int(count))))
    return names[: int(count)] if count <= len(names) else list(map(str, range(int(count))))


def _checked(label: str, amount: float) -> float:
    fine = isinstance(amount, int | float) and not isinstance(amount, bool)
    if not fine or not amount >= 0 or not math.isfinite(amount):
        raise ValueError(f"{label}={amount!r}: expected a number >= 0")
    return float(amount)
