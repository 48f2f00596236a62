"""The rooms of the code: what imports what, read from the source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.texts import ROOT

# Longest chain of imports, each room and each module that lies beside the rooms counted once.
LONGEST = 9
PACKAGES = ("gemma_mlx", "harness")


def files() -> list[Path]:
    return [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(file): file for file in files()}


def room(name: str) -> str:
    """`gemma_mlx` is one room; in `harness` each folder is one, and each module beside them."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "harness" else parts[0]


def imported(file: Path) -> Iterator[str]:
    """Our modules that a file imports anywhere, functions and type annotations included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [
                f"{node.module}.{alias.name}"
                if f"{node.module}.{alias.name}" in MODULES
                else node.module
                for alias in node.names
            ]
        else:
            continue
        yield from (name for name in names if name in MODULES)


ROOMS: dict[str, set[str]] = {}
for name, file in MODULES.items():
    ROOMS.setdefault(room(name), set()).update(
        room(other) for other in imported(file) if room(other) != room(name)
    )


@cache
def chain(start: str) -> tuple[str, ...]:
    """The longest chain of rooms from this one down; a circle never ends."""
    return (start, *max((chain(below) for below in ROOMS[start]), key=len, default=()))


def test_no_import_runs_against_the_flow_and_no_chain_is_long():
    longest = max((chain(name) for name in ROOMS), key=len)
    assert len(longest) <= LONGEST, " → ".join(longest)


def test_stats_know_nothing_of_models_and_models_nothing_of_statistics():
    assert ROOMS["harness.stats"] <= {"harness.defaults"}
    assert ROOMS["gemma_mlx"] == set()


def test_only_the_plugin_knows_pytest():
    knowing = {
        room(name)
        for name, file in MODULES.items()
        if any(
            "pytest" in [alias.name for alias in getattr(node, "names", [])]
            or getattr(node, "module", None) == "pytest"
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
        )
    }
    above = {"harness.plugin", "harness.short_options", "harness.testing"}
    assert knowing <= above
