"""Prompt pairs from rows that somebody else made: which columns, what was left out, and why."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, groupby
from typing import Any, Literal

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import name_fault, sha256
from harness.data.pairs import CONDITIONS, Condition, folded, pairs_of
from harness.data.tables import Table

#: Words of the longest prompt that is taken where nothing else is said.
LONGEST = 400
#: Columns that every file has, unless its own have these names: the file's name without its ending,
#: and its folder's name.
PLACES = ("file", "folder")

_IN_BRACES = re.compile(r"\{([^{}]+)\}")
# Bytes; a group has two names and a condition, and names a folder.
_LONGEST_NAME = 60

Fate = Literal["dropped", "merged", "renamed"]


class ImportingError(UserError):
    """Columns that can't be made into pairs; the message names the column or the option."""


@dataclass(frozen=True)
class Columns:
    """Which columns make a pair.

    Attributes:
        natural, artifact: of the two prompts, where a row holds both. With `condition`, where a row
            holds one prompt, the values of that column that name the two conditions.
        prompt, condition, match: where a row holds one prompt: its column, that of its condition,
            and that whose value both prompts of a pair share.
        in_order: whether several prompts of a condition may share a `match`; they pair up in the
            order in which they stand, the first with the first.
        templates: in place of `natural` and `artifact`, texts of the two prompts with names of
            columns in braces, `"Argue that {stance}"`. Each row gives a pair for every two.
        id, category, cluster: names of columns, several of which are joined. Without them an id is
            the row's number or the match, the category the file's name, and there is no cluster, as
            where one of its columns is empty; with several templates, pairs of one row are then one
            cluster.
        where: values that columns must have for a row to be taken.
        values: by column, values to put in the place of others.
        longest: words of the longest prompt that is taken.
    """

    natural: str = "natural"
    artifact: str = "artifact"
    prompt: str = ""
    condition: str = ""
    match: str = ""
    in_order: bool = False
    templates: tuple[tuple[str, str], ...] = ()
    id: tuple[str, ...] = ()
    category: tuple[str, ...] = ("file",)
    cluster: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    longest: int = LONGEST

    @property
    def long(self) -> bool:
        """Whether a row holds one prompt."""
        return bool(self.condition)

    def used(self) -> Iterator[str]:
        """Names of all columns that are looked at."""
        if self.templates:
            for texts in self.templates:
                for text in texts:
                    yield from _IN_BRACES.findall(text)
        elif self.long:
            yield from (self.prompt, self.condition, self.match)
        else:
            yield from (self.natural, self.artifact)
        yield from (*self.id, *self.category, *self.cluster, *self.where, *self.values)


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a row that isn't simply a pair, or half of one."""

    file: str
    row: int
    fate: Fate
    reason: str


@dataclass(frozen=True)
class Imported:
    """Pairs that were made of rows.

    Attributes:
        content: the prompt pairs file, as JSON values.
        pairs: how many it holds.
        notes: on rows, in the order of the files.
    """

    content: dict[str, Any]
    pairs: int
    notes: tuple[Note, ...]


def import_pairs(
    tables: Sequence[Table],
    columns: Columns,
    *,
    source: str,
    about: Mapping[str, Any],
) -> Imported:
    """Make prompt pairs of rows, and check them as `load_pairs` does.

    Left out, each with a note: rows that `columns.where` doesn't take, prompts that are empty, not
    texts or too long, pairs of the same prompt twice or of prompts that an earlier pair has, and
    prompts without a partner. Ids and categories that can't be names of files are made so.

    Args:
        source: what errors call the file that will hold the pairs.
        about: more metadata: description, licence and so on.

    Raises:
        ImportingError: a column that a file lacks, or nothing left.
    """
    _check_columns(tables, columns)
    return _Importing(columns).run(tables, source, about)


def summary(notes: Sequence[Note]) -> list[dict[str, Any]]:
    """Notes of one fate, reason and file together: `{"fate", "reason", "file", "rows": "3-5, 9"}`,
    those with the most rows first."""
    groups: dict[tuple[Fate, str, str], list[int]] = {}
    for note in notes:
        groups.setdefault((note.fate, note.reason, note.file), []).append(note.row)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        {"fate": fate, "reason": reason, "file": file, "count": len(rows), "rows": _ranges(rows)}
        for (fate, reason, file), rows in ordered
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """`3-5, 9`, of 3, 4, 5 and 9."""
    ordered = sorted(set(numbers))
    found = []
    for _, run in groupby(enumerate(ordered), key=lambda item: item[1] - item[0]):
        inside = [number for _, number in run]
        found.append(f"{inside[0]}-{inside[-1]}" if len(inside) > 1 else str(inside[0]))
    return ", ".join(found)


def _check_columns(tables: Sequence[Table], columns: Columns) -> None:
    if columns.long and not (columns.prompt and columns.match):
        raise ImportingError("one prompt a row takes the columns of prompt, condition and match")
    if columns.long and columns.natural == columns.artifact:
        raise ImportingError(f"{columns.natural!r} can't name both conditions")
    if columns.long and columns.templates:
        raise ImportingError("templates make both prompts of one row, and have no condition")
    for table in tables:
        there = {*table.columns, *PLACES}
        for name in columns.used():
            if name not in there:
                raise ImportingError(
                    f"{table.path}: no column {name!r}; there are {', '.join(table.columns)}"
                )


@dataclass(frozen=True)
class _Record:
    """A row with what its columns stand for."""

    table: Table
    number: int
    values: Mapping[str, str]
    not_text: frozenset[str]

    def text(self, names: Sequence[str]) -> str:
        return " ".join(filter(None, (self.values[name] for name in names)))


@dataclass(frozen=True)
class _Candidate:
    """Two prompts that may become a pair, and the rows that they are from, the natural one first.

    `name` is what the pair is called where the file has no id.
    """

    rows: tuple[_Record, ...]
    natural: str
    artifact: str
    name: str
    several: bool = False


class _Importing:
    """One import, with the names and prompts that it has seen."""

    def __init__(self, columns: Columns):
        self._columns = columns
        self._notes: list[Note] = []
        self._prompts: dict[tuple[str, str], _Candidate] = {}
        self._categories: dict[str, str] = {}
        self._groups: set[str] = set()
        self._several_files = False

    def run(self, tables: Sequence[Table], source: str, about: Mapping[str, Any]) -> Imported:
        records = [record for table in tables for record in self._records(table)]
        self._several_files = len(tables) > 1
        make = self._matched if self._columns.long else self._wide
        categories: dict[str, Any] = {}
        for candidate in make(records):
            if self._usable(candidate):
                category, entry, described = self._entry(candidate)
                body = categories.setdefault(category, {"description": described, "pairs": []})
                body["pairs"].append(entry)
        order = {table.name: i for i, table in enumerate(tables)}
        notes = tuple(sorted(self._notes, key=lambda note: (order[note.file], note.row)))
        if not categories:
            reasons = "; ".join(f"{s['reason']} ({s['count']} rows)" for s in summary(notes)[:3])
            raise ImportingError(f"no pairs are left: {reasons}")
        files = [
            {"file": table.name, "sha256": sha256(table.path), "rows": len(table.rows)}
            for table in tables
        ]
        metadata = {
            "version": "1.0",
            **about,
            "source": files,
            "mapping": {k: v for k, v in asdict(self._columns).items() if v not in ("", (), {})},
            "left_out": summary(notes),
        }
        content = {
            "alignment_artifact_prompt_pairs": {"metadata": metadata, "categories": categories}
        }
        return Imported(content, len(pairs_of(content, source)), notes)

    def _note(self, record: _Record, fate: Fate, reason: str) -> None:
        self._notes.append(Note(record.table.name, record.number, fate, reason))

    def _records(self, table: Table) -> Iterator[_Record]:
        """Rows that are wanted, with texts as values."""
        columns = self._columns
        names = dict.fromkeys(columns.used())
        place = {"file": table.path.stem, "folder": table.path.resolve().parent.name}
        for number, row in table.rows.items():
            found = {name: row.get(name, place.get(name)) for name in names}
            not_text = frozenset(n for n, value in found.items() if isinstance(value, list | dict))
            values = {n: "" if v is None else str(v).strip() for n, v in found.items()}
            values = {n: columns.values.get(n, {}).get(v, v) for n, v in values.items()}
            record = _Record(table, number, values, not_text)
            other = next((n for n, wanted in columns.where.items() if values[n] != wanted), None)
            if other is None:
                yield record
            else:
                self._note(record, "dropped", f"{other} isn't {columns.where[other]!r}")

    def _wide(self, records: Sequence[_Record]) -> Iterator[_Candidate]:
        columns = self._columns
        for record in records:
            name = f"row_{record.number}"
            if self._several_files:
                name = f"{record.table.path.stem}_{record.number}"
            if not columns.templates:
                prompts = (record.values[columns.natural], record.values[columns.artifact])
                yield _Candidate((record,), *prompts, name)
            for number, texts in enumerate(columns.templates, start=1):
                natural, artifact = (_filled(text, record) for text in texts)
                many = len(columns.templates) > 1
                yield _Candidate(
                    (record,), natural, artifact, f"{name}_{number}" if many else name, many
                )

    def _matched(self, records: Sequence[_Record]) -> Iterator[_Candidate]:
        columns = self._columns
        conditions: dict[str, Condition] = {
            columns.natural: "natural",
            columns.artifact: "artifact",
        }
        matches: dict[str, dict[Condition, list[_Record]]] = {}
        for record in records:
            condition = conditions.get(record.values[columns.condition])
            if condition is None:
                value = record.values[columns.condition]
                names = " nor ".join(map(repr, conditions))
                self._note(record, "dropped", f"{columns.condition} is {value!r}, neither {names}")
                continue
            arms = matches.setdefault(record.values[columns.match], {c: [] for c in CONDITIONS})
            arms[condition].append(record)
        for match, arms in matches.items():
            counts = [len(arms[c]) for c in CONDITIONS]
            if counts[0] != counts[1] or (counts[0] > 1 and not columns.in_order):
                for record in (*arms["natural"], *arms["artifact"]):
                    reason = f"{counts[0]} natural and {counts[1]} artifact prompts match {match!r}"
                    self._note(record, "dropped", reason)
                continue
            both = zip(arms["natural"], arms["artifact"], strict=True)
            for number, (natural, artifact) in enumerate(both, start=1):
                name = f"{match}_{number}" if columns.in_order else match
                prompts = (natural.values[columns.prompt], artifact.values[columns.prompt])
                yield _Candidate((natural, artifact), *prompts, name)

    def _usable(self, candidate: _Candidate) -> bool:
        """Whether the two prompts make a pair; what doesn't is noted."""
        prompts = (candidate.natural, candidate.artifact)
        key = (folded(candidate.natural), folded(candidate.artifact))
        earlier = self._prompts.setdefault(key, candidate)
        fate, reason = "dropped", None
        if any(record.not_text for record in candidate.rows):
            reason = f"{min(candidate.rows[0].not_text | candidate.rows[-1].not_text)} isn't a text"
        elif not all(key):
            reason = "an empty prompt"
        elif key[0] == key[1]:
            reason = "both prompts are the same"
        elif max(len(prompt.split()) for prompt in prompts) > self._columns.longest:
            reason = f"a prompt of more than {self._columns.longest} words"
        elif earlier is not candidate:
            first = earlier.rows[0]
            of = f" of {first.table.name}" if self._several_files else ""
            fate, reason = "merged", f"the prompts of row {first.number}{of}"
        for record in candidate.rows if reason else ():
            self._note(record, "merged" if fate == "merged" else "dropped", reason or "")
        return reason is None

    def _entry(self, candidate: _Candidate) -> tuple[str, dict[str, str], str]:
        """The pair's category, its entry in the file, and the category in the file's words."""
        columns = self._columns
        first = candidate.rows[0]
        described = first.text(columns.category) or "all"
        category = self._category(described)
        wanted = first.text(columns.id) or candidate.name
        if candidate.several and columns.id:
            wanted = f"{wanted}_{candidate.name.rpartition('_')[2]}"
        plain = name = _plain_name(wanted)
        others = count(2)
        while _group(category, name) in self._groups:
            name = f"{plain}_{next(others)}"
        self._groups.add(_group(category, name))
        if columns.id and name != wanted:
            self._note(first, "renamed", "an id that can't name a file, or is there already")
        cluster = ""
        if all(first.values[column] for column in columns.cluster):
            cluster = first.text(columns.cluster)
        if not columns.cluster and candidate.several:
            cluster = f"{first.table.name} {first.number}"
        entry = {"id": name, "natural": candidate.natural, "artifact": candidate.artifact}
        return category, entry | ({"cluster": cluster} if cluster else {}), described

    def _category(self, described: str) -> str:
        if described not in self._categories:
            plain = name = _plain_name(described)
            taken = {other.casefold() for other in self._categories.values()}
            others = count(2)
            while name.casefold() in taken:
                name = f"{plain}_{next(others)}"
            self._categories[described] = name
        return self._categories[described]


def _filled(template: str, record: _Record) -> str:
    """A template with the record's values; empty where one of them is."""
    names = _IN_BRACES.findall(template)
    if not all(record.values[name] for name in names):
        return ""
    return _IN_BRACES.sub(lambda match: record.values[match[1]], template)


def _group(category: str, name: str) -> str:
    """As `harness.data.pairs` tells names apart."""
    return unicodedata.normalize("NFKC", f"{category}_{name}").casefold()


def _plain_name(text: str) -> str:
    """A name of a file that is like `text`."""
    plain = re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFKC", text)).strip("_-")
    short = plain.encode()[:_LONGEST_NAME].decode(errors="ignore").strip("_-")
    return f"{short}_" if name_fault(short) else short
