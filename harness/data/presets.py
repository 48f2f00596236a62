"""Published sets of prompts: which of their columns make pairs. The sets themselves are data in
`presets.json`; nothing of theirs is kept here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gemma_mlx.request import Positions
from harness.data.importing import Columns

_FILE = Path(__file__).with_name("presets.json")


@dataclass(frozen=True)
class Preset:
    """How to read one published set.

    Attributes:
        title, link, licence: of the set, as its authors give them.
        files: what its files are called.
        measures, does_not: what its pairs are about, and what they don't show.
        read_at: the positions that they are for.
        columns: which columns make pairs.
    """

    title: str
    link: str
    licence: str
    files: str
    measures: str
    does_not: str
    read_at: Positions
    columns: Columns


@cache
def presets() -> Mapping[str, Preset]:
    """All of them by name."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    return {
        name: Preset(**{**body, "columns": Columns(**_as_tuples(body["columns"]))})
        for name, body in content.items()
    }


def _as_tuples(value: Any) -> Any:
    """JSON's lists as tuples, within objects too."""
    if isinstance(value, list):
        return tuple(map(_as_tuples, value))
    if isinstance(value, dict):
        return {key: _as_tuples(item) for key, item in value.items()}
    return value
