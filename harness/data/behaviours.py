"""What counts as evading: patterns and openings that are data, not code."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import read_json

Kind = Literal["declines", "hedges", "deflects"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Opening = Literal["evasive", "plain"]
OPENINGS: tuple[Opening, ...] = get_args(Opening)

_ROOT = "behaviours"
_APOSTROPHES = str.maketrans("’‘ʼ´`", "'''''")
_MARKUP = re.compile(r"[*_#>~]+")


class BehavioursError(UserError):
    """A behaviours file that can't be used; the message names the file and the place in it."""


@dataclass(frozen=True)
class Behaviours:
    """How responses evade, and how they begin.

    Attributes:
        patterns: regular expressions by kind.
        openings: first words of evasive and of plain responses.
        metadata: as the file has it.
        source: what errors call the file.
    """

    patterns: Mapping[Kind, tuple[str, ...]]
    openings: Mapping[Opening, tuple[str, ...]]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def fingerprint(self) -> str:
        """sha256 over patterns and openings."""
        content = [dict(self.patterns), dict(self.openings)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _compiled(self) -> list[tuple[Kind, list[re.Pattern[str]]]]:
        return [(kind, [re.compile(p) for p in self.patterns[kind]]) for kind in KINDS]

    def classify(self, text: str) -> Kind | None:
        """How a response evades: the first kind with a pattern that is found in it, in the order
        declines, hedges, deflects; None where it answers plainly.

        Patterns see the text in lower case, with straight apostrophes, without the marks of
        Markdown, and with single spaces for all whitespace.
        """
        plain = " ".join(_MARKUP.sub("", text.translate(_APOSTROPHES)).lower().split())
        for kind, patterns in self._compiled:
            if any(pattern.search(plain) for pattern in patterns):
                return kind
        return None


def load_behaviours(path: str | os.PathLike[str]) -> Behaviours:
    """Read a behaviours file: `{"behaviours": {"metadata": {…}, "patterns": {"declines": […],
    "hedges": […], "deflects": […]}, "openings": {"evasive": […], "plain": […]}}}`.

    Raises:
        BehavioursError: unreadable, not JSON, not of that form, or a pattern that isn't a regular
            expression of Python's or is found in an empty text.
    """
    file = Path(path)
    content = read_json(file, error=BehavioursError)
    try:
        root = _object(_object(content, "the file").get(_ROOT), repr(_ROOT))
        unknown = root.keys() - {"metadata", "patterns", "openings"}
        if unknown:
            raise BehavioursError(f"unknown key {min(unknown)!r}")
        metadata = _object(root.get("metadata", {}), "metadata")
        patterns = _texts(root.get("patterns"), "patterns", KINDS)
        openings = _texts(root.get("openings"), "openings", OPENINGS)
        for kind, listed in patterns.items():
            for number, pattern in enumerate(listed, start=1):
                _check_pattern(pattern, f"patterns, {kind}, number {number}")
    except BehavioursError as error:
        raise BehavioursError(f"{file}: {error}") from None
    return Behaviours(patterns, openings, metadata, str(file))


def _check_pattern(pattern: str, place: str) -> None:
    try:
        found = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BehavioursError(
            f"{place}: {pattern!r} isn't a regular expression ({error})"
        ) from None
    if found.search(""):
        raise BehavioursError(f"{place}: {pattern!r} is found in an empty text, so in every one")


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a JSON {type(value).__name__}"
        raise BehavioursError(f"{place} must be a JSON object, found {found}")
    return value


def _texts(value: Any, place: str, keys: tuple[str, ...]) -> dict[Any, tuple[str, ...]]:
    """Lists of texts by these keys, none of them empty."""
    listed = _object(value, place)
    if listed.keys() != set(keys):
        raise BehavioursError(f"{place} must have the keys {', '.join(keys)} and no others")
    for key, texts in listed.items():
        good = isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)
        if not good or not texts:
            raise BehavioursError(f"{place}, {key}: must be a list of texts that aren't empty")
    return {key: tuple(listed[key]) for key in keys}
