"""Matched prompt pairs: read the file, refuse what can't be run, name the groups."""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import name_fault, parse_json, read_json

Condition = Literal["natural", "artifact"]
CONDITIONS: tuple[Condition, Condition] = ("natural", "artifact")

_ROOT = "alignment_artifact_prompt_pairs"
# A group has two of them, and is the name of a directory itself.
_LONGEST_NAME = 100


class PairsError(UserError):
    """A prompt pairs file that can't be used; the message names the file and the place in it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts on one topic: a plain one and one that invites an alignment artifact."""

    category: str
    id: str
    natural: str
    artifact: str

    def prompt(self, condition: Condition) -> str:
        return self.natural if condition == "natural" else self.artifact

    def group(self, condition: Condition) -> str:
        """The original project's name for one prompt, e.g. `natural_technical_dangerous_tech_1`."""
        return f"{condition}_{self.category}_{self.id}"


@dataclass(frozen=True)
class PromptPairs:
    """The pairs of one file.

    Attributes:
        pairs: sorted by category and id, so that no result depends on the file's order.
        categories: each category's description.
        metadata: as the file has it.
        source: what errors call the file.
    """

    pairs: tuple[Pair, ...]
    categories: Mapping[str, str]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    @property
    def fingerprint(self) -> str:
        """sha256 over categories, ids and prompts."""
        rows = [[p.category, p.id, p.natural, p.artifact] for p in self.pairs]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def prompts(self) -> dict[str, str]:
        """Prompt by group, both conditions of each pair together."""
        return {pair.group(c): pair.prompt(c) for pair in self.pairs for c in CONDITIONS}


def load_pairs(path: str | os.PathLike[str]) -> PromptPairs:
    """Read a prompt pairs file (its form is described in the README).

    Raises:
        PairsError: unreadable, not JSON, not of that form, empty or repeated things, or ids and
            categories that can't be names of files.
    """
    file = Path(path)
    return _pairs(read_json(file, error=PairsError), str(file))


def parse_pairs(text: str, *, source: str) -> PromptPairs:
    """`load_pairs` for text that was read already.

    Args:
        source: what errors call the text.
    """
    return _pairs(parse_json(text, source, error=PairsError), source)


def _pairs(data: Any, source: str) -> PromptPairs:
    root = _object(_object(data, source, "the file").get(_ROOT), source, f"{_ROOT!r}")
    metadata = _object(root.get("metadata", {}), source, "metadata")
    categories = _object(root.get("categories"), source, "categories")
    pairs: list[Pair] = []
    for category, body in categories.items():
        place = f"category {category!r}"
        _check_name(category, source, place)
        listed = _object(body, source, place).get("pairs")
        if not isinstance(listed, list):
            raise PairsError(f"{source}: {place} needs a list of pairs")
        pairs += [
            _pair(entry, category, source, f"{place}, pair {number}")
            for number, entry in enumerate(listed, start=1)
        ]
    if not pairs:
        raise PairsError(f"{source}: no pairs")
    _check_distinct(pairs, source)
    pairs.sort(key=lambda pair: (pair.category, pair.id))
    descriptions = {
        name: str(_object(body, source, name).get("description", ""))
        for name, body in categories.items()
    }
    return PromptPairs(tuple(pairs), descriptions, metadata, source)


def _object(value: Any, source: str, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a JSON {type(value).__name__}"
        raise PairsError(f"{source}: {place} must be a JSON object, found {found}")
    return value


def _pair(entry: Any, category: str, source: str, place: str) -> Pair:
    body = _object(entry, source, place)
    values: dict[str, str] = {}
    for key in ("id", "natural", "artifact"):
        value = body.get(key)
        if value is None:
            raise PairsError(f"{source}: {place} has no {key!r}")
        if not isinstance(value, str) or not value.strip():
            raise PairsError(f"{source}: {place}: {key!r} must be a text that isn't empty")
        values[key] = value
        place = f"{place} ({value!r})" if key == "id" else place
    _check_name(values["id"], source, place)
    return Pair(category, **values)


def _check_name(name: str, source: str, place: str) -> None:
    """Raise unless `name`, an id or a category, can name files and directories."""
    fault = name_fault(name, longest=_LONGEST_NAME)
    if fault is not None:
        raise PairsError(f"{source}: {place}: {fault}")


def _check_distinct(pairs: list[Pair], source: str) -> None:
    """Raise where two pairs' names are the same, or the same to some file system."""
    groups: dict[str, Pair] = {}
    for pair in pairs:
        key = unicodedata.normalize("NFKC", pair.group("natural")).casefold()
        other = groups.setdefault(key, pair)
        if other is not pair:
            raise PairsError(
                f"{source}: pair {pair.id!r} of category {pair.category!r} and pair {other.id!r} "
                f"of category {other.category!r} would share the name {pair.group('natural')!r}"
            )
