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
from gemma_mlx.system.files import name_fault, read_json

Condition = Literal["natural", "artifact"]
CONDITIONS: tuple[Condition, Condition] = ("natural", "artifact")

_ROOT = "alignment_artifact_prompt_pairs"
# A group has two of them, and is the name of a directory itself.
_LONGEST_NAME = 100


class PairsError(UserError):
    """A prompt pairs file that can't be used; the message names the file and the place in it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two prompts on one topic: a plain one and one that invites an alignment artifact.

    Pairs of one `cluster` share something, and count as one observation.
    """

    category: str
    id: str
    natural: str
    artifact: str
    cluster: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.category}/{self.id}"

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
        """sha256 over categories, ids and prompts: what a model is asked."""
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
    return pairs_of(read_json(file, error=PairsError), str(file))


def pairs_of(content: Any, source: str) -> PromptPairs:
    """The pairs of a file's content, as JSON values; raises what `load_pairs` does.

    Args:
        source: what errors call the file.
    """
    try:
        root = _object(_object(content, "the file").get(_ROOT), repr(_ROOT))
        metadata = _object(root.get("metadata", {}), "metadata")
        descriptions: dict[str, str] = {}
        pairs: list[Pair] = []
        for category, body in _object(root.get("categories"), "categories").items():
            place = f"category {category!r}"
            _check_name(category, place)
            listed = _object(body, place).get("pairs")
            if not isinstance(listed, list):
                raise PairsError(f"{place} needs a list of pairs")
            for number, entry in enumerate(listed, start=1):
                pairs.append(_pair(entry, category, f"{place}, pair {number}"))
            descriptions[category] = str(body.get("description", ""))
        if not pairs:
            raise PairsError("no pairs")
        _check_distinct(pairs)
    except PairsError as error:
        raise PairsError(f"{source}: {error}") from None
    pairs.sort(key=lambda pair: (pair.category, pair.id))
    return PromptPairs(tuple(pairs), descriptions, metadata, source)


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a JSON {type(value).__name__}"
        raise PairsError(f"{place} must be a JSON object, found {found}")
    return value


def _pair(entry: Any, category: str, place: str) -> Pair:
    body = _object(entry, place)
    for key in ("id", *CONDITIONS):
        value = body.get(key)
        if value is None:
            raise PairsError(f"{place} has no {key!r}")
        if not isinstance(value, str) or not value.strip():
            raise PairsError(f"{place}: {key!r} must be a text that isn't empty")
        if key == "id":
            place = f"{place} ({value!r})"
            _check_name(value, place)
    pair = Pair(category, body["id"], body["natural"], body["artifact"], body.get("cluster"))
    if pair.cluster is not None and (not isinstance(pair.cluster, str) or not pair.cluster.strip()):
        raise PairsError(f"{place}: 'cluster' must be a text that isn't empty")
    if folded(pair.natural) == folded(pair.artifact):
        raise PairsError(f"{place}: 'natural' and 'artifact' are the same prompt")
    return pair


def folded(prompt: str) -> str:
    """A prompt without differences of case and whitespace."""
    return " ".join(prompt.split()).casefold()


def _check_name(name: str, place: str) -> None:
    """Raise unless `name`, an id or a category, can name files and directories."""
    if fault := name_fault(name, longest=_LONGEST_NAME):
        raise PairsError(f"{place}: {fault}")


def _check_distinct(pairs: list[Pair]) -> None:
    """Raise where two pairs' names are the same, or the same to some file system."""
    groups: dict[str, Pair] = {}
    for pair in pairs:
        key = unicodedata.normalize("NFKC", pair.group("natural")).casefold()
        other = groups.setdefault(key, pair)
        if other is not pair:
            raise PairsError(
                f"pair {pair.id!r} of category {pair.category!r} and pair {other.id!r} of "
                f"category {other.category!r} would share the name {pair.group('natural')!r}"
            )
