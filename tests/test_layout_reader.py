"""The reader behind the layout tests sees every kind of import, and places modules in layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import layout

CODE = """
import os.path as p, engine.core
from engine import api, get
from engine.core.ids import short
from . import sibling
from ..config import Config
if TYPE_CHECKING:
    from engine.runtime import driver
else:
    import json
class A:
    import socket
    def method(self):
        import threading
        if typing.TYPE_CHECKING:
            import random
try:
    import fast
except ImportError:
    fast = None
"""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, layout.Import]:
    """What the reader finds in CODE, as module engine.core.sample of a small tree."""
    for name in ("__init__", "api", "config", "core/__init__", "core/ids", "core/sibling"):
        path = tmp_path / "engine" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    sample = tmp_path / "engine" / "core" / "sample.py"
    sample.write_text(CODE)
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    return {one.module: one for one in layout.imports_of(sample)}


def test_all_imports_are_found_by_their_full_names(found: dict[str, layout.Import]) -> None:
    assert set(found) == {
        *("os.path", "engine.core", "engine.api", "engine", "engine.core.ids"),
        *("engine.core.sibling", "engine.config", "engine.runtime", "json", "socket"),
        *("threading", "random", "fast"),
    }


def test_lazy_and_typing_only_imports_are_told_apart(found: dict[str, layout.Import]) -> None:
    assert {name for name, one in found.items() if one.lazy} == {"threading", "random"}
    assert {name for name, one in found.items() if one.typing_only} == {"engine.runtime", "random"}


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("engine.core.ids", "core"),
        ("engine.core", "core"),
        ("engine.corex", "public"),
        ("engine.exceptions", "foundation"),
        ("engine", "public"),
        ("engine.util.queue", "public"),
        ("engine.topology.spec", "topology"),
        ("streaming.sinks.files", "packages"),
        ("examples.01_tasks", "programs"),
        ("numpy", None),
    ],
)
def test_a_module_belongs_to_the_row_with_the_longest_prefix(
    module: str, layer: str | None
) -> None:
    index = layout.layer_of(module)
    assert (None if index is None else layout.LAYERS[index][0]) == layer
