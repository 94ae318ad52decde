"""`RuntimeEnv`: what a task or an actor finds around it - variables, directory, modules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["RuntimeEnv"]

_FIELDS = ("env_vars", "working_dir", "py_modules")
_INSTALL = "install the packages where the driver's interpreter finds them: workers inherit it"
# What Ray has and this engine refuses, with what to do instead.
_REFUSED = {
    "pip": _INSTALL,
    "uv": _INSTALL,
    "conda": "start the driver with the interpreter of that environment: workers inherit it",
    "container": "run the driver, and so the engine, inside of the container",
    "image_uri": "run the driver, and so the engine, inside of the container",
    "docker": "run the driver, and so the engine, inside of the container",
    "py_executable": "start the driver with that interpreter: workers inherit it",
    "java_jars": "there are no Java workers",
    "excludes": "leave it out: directories are used in place, nothing is uploaded",
    "config": "leave it out: setting up takes no downloads, so there is nothing to time out",
    "worker_process_setup_hook": "call the hook in the task, or in the actor's constructor",
    "nsight": "profile the process from outside; engine.state.list_workers() has its pid",
    "rocprof_sys": "profile the process from outside; engine.state.list_workers() has its pid",
    "mpi": "start MPI programs from a task with subprocess",
}


class RuntimeEnv(dict[str, Any]):
    """A runtime environment, for `init`, tasks and actors; a plain dict of the fields will do too.

    Work of one environment runs in workers that never run work of another. What is submitted from
    inside inherits it; variables that are given there are merged, other fields replace.

    Args:
        env_vars: environment variables, set before any user code runs. ``${NAME}`` in a value is
            replaced by what the worker inherited. Thread counts (OMP_NUM_THREADS) and PYTHONPATH
            take effect; what only the start of a process reads (LD_PRELOAD, PYTHONHASHSEED) does
            so in programs that the worker starts, since workers are forked.
        working_dir: a local directory: the worker's current directory, and first on its import
            path. Used in place, not copied: what tasks write there stays there.
        py_modules: local packages (directories), modules (``.py`` files) or module objects that
            can be imported inside. Used in place: the directory that holds one of them goes on the
            import path, with all else that lies in it.

    Raises ValueError for a path that does not exist and for fields that this engine does not have,
    TypeError for a wrong type. What fails only in the worker is a RuntimeEnvSetupError.
    """

    def __init__(
        self,
        *,
        env_vars: Mapping[str, str] | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        py_modules: list[str | os.PathLike[str] | ModuleType] | None = None,
        **other: Any,
    ) -> None:
        super().__init__()
        for name, value in other.items():
            if value is not None:
                raise ValueError(_refusal(name))
        if env_vars is not None:
            self["env_vars"] = _variables(env_vars)
        if working_dir is not None:
            self["working_dir"] = str(_directory(working_dir))
        if py_modules is not None:
            self["py_modules"] = _modules(py_modules)

    @classmethod
    def of(cls, value: Any) -> RuntimeEnv:
        """The environment that a user has given as a dictionary, or as an instance, checked."""
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise TypeError(
                f"runtime_env={value!r}: expected a dictionary with {', '.join(_FIELDS)}, or a "
                "RuntimeEnv"
            )
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a plain dictionary."""
        return dict(self)


def _refusal(name: str) -> str:
    known = f"known are: {', '.join(_FIELDS)}"
    if name in _REFUSED:
        return f"runtime_env has no field {name!r} here; {known}. Instead: {_REFUSED[name]}."
    return f"unknown field {name!r} of runtime_env; {known}"


def _variables(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise TypeError(f"runtime_env: env_vars={given!r}: expected a dictionary of strings")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"runtime_env: env_vars has {name!r}: {value!r}; expected strings (numbers too: "
                "write '4', not 4)"
            )
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(
                f"runtime_env: env_vars has {name!r}: no system can have such a variable"
            )
    return dict(given)


def _path(field: str, given: Any) -> Path:
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"runtime_env: {field} has {given!r}; expected a path")
    if "://" in str(given):
        raise ValueError(
            f"runtime_env: {field} has {str(given)!r}; expected a local path: fetch and unpack it "
            "before, this engine downloads nothing"
        )
    found = Path(given).expanduser().resolve()
    if not found.exists():
        raise ValueError(f"runtime_env: {field}: there is no {str(found)!r}")
    return found


def _directory(given: Any) -> Path:
    found = _path("working_dir", given)
    if not found.is_dir():
        raise ValueError(
            f"runtime_env: working_dir: {str(found)!r} is not a directory (archives are not "
            "unpacked)"
        )
    return found


def _modules(given: Any) -> list[str]:
    if not isinstance(given, list | tuple):
        raise TypeError(
            f"runtime_env: py_modules={given!r}: expected a list of paths or module objects"
        )
    return [str(_module(one)) for one in given]


def _module(given: Any) -> Path:
    if isinstance(given, ModuleType):
        places = list(getattr(given, "__path__", ())) or [getattr(given, "__file__", None)]
        if places[0] is None:
            raise ValueError(f"runtime_env: py_modules has {given!r}, which has no file")
        given = places[0]
    found = _path("py_modules", given)
    if not found.is_dir() and found.suffix != ".py":
        raise ValueError(
            f"runtime_env: py_modules: {str(found)!r} is neither a directory nor a .py file; "
            f"for wheels: {_INSTALL}"
        )
    return found
