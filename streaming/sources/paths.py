"""Which files a path argument means (driver side, when the source is made)."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Paths", "find_files", "fingerprint_of"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def find_files(paths: Paths, verb: str, suffix: str) -> list[Path]:
    """Absolute paths of the files, sorted, each once.

    A directory means the files in it that end in `suffix` and whose names begin with neither "."
    nor "_"; a text with * ? [ is a glob ("**" goes into directories). FileNotFoundError when an
    entry means no file.
    """
    entries = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not entries:
        raise ValueError(f"{verb}: the list of paths is empty")
    found: set[Path] = set()
    for entry in entries:
        matches = _match(os.fspath(entry), suffix)
        if not matches:
            raise FileNotFoundError(f"{verb}: no file matches {os.fspath(entry)!r}")
        found.update(path.absolute() for path in matches)
    return sorted(found)


def fingerprint_of(files: Sequence[Path]) -> str:
    """Paths and sizes: files that change under a position would give other rows."""
    return ", ".join(f"{path} ({path.stat().st_size} bytes)" for path in files)


def _match(entry: str, suffix: str) -> list[Path]:
    path = Path(entry)
    if path.is_dir():
        return [
            child
            for child in path.iterdir()
            if child.is_file() and child.suffix == suffix and child.name[0] not in "._"
        ]
    if path.is_file():
        return [path]
    return [Path(match) for match in glob.glob(entry, recursive=True) if os.path.isfile(match)]
