"""Rows of CSV, JSON, JSONL and Parquet files that somebody else made."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import LARGEST_TEXT, parse_json, read_text

# Spreadsheets write what their country's numbers leave free.
_DELIMITERS = ",;\t"
# A file can't have DuckDB fetch code or data.
_CLOSED: dict[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}

Row = Mapping[str, Any]


class TableError(UserError):
    """A file of rows that can't be read; the message names the file and the row."""


@dataclass(frozen=True)
class Table:
    """The rows of one file.

    Attributes:
        path: of the file.
        name: what it is called: the file's name, with its folder's where that tells it from others.
        columns: their names, in the order in which they first appear.
        rows: by number. Of CSV those that a spreadsheet shows, the header being row 1; of JSONL the
            lines' numbers; of JSON and Parquet counted from 1. Values are texts in CSV, and
            whatever the file has elsewhere.
    """

    path: Path
    name: str
    columns: tuple[str, ...]
    rows: Mapping[int, Row]


def read_tables(paths: Sequence[Path]) -> list[Table]:
    """Read files by the endings of their names: .csv, .tsv, .json (a list of objects), .jsonl,
    .ndjson or .parquet.

    Raises:
        TableError: another ending, unreadable, not of that form, no rows, one file named twice, or
            the package `duckdb`, which reads Parquet, is missing.
    """
    counts = Counter(path.name for path in paths)
    names = [
        path.name if counts[path.name] == 1 else "/".join(path.resolve().parts[-2:])
        for path in paths
    ]
    if len(set(names)) < len(names):
        raise TableError(f"{', '.join(names)}: files of one name in folders of one name")
    return [_read(path, name) for path, name in zip(paths, names, strict=True)]


def _read(path: Path, name: str) -> Table:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TableError(f"{path}: can't be told by its name; {', '.join(_READERS)} can be read")
    rows = dict(reader(path))
    if not rows:
        raise TableError(f"{path}: no rows")
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    return Table(path, name, tuple(columns), rows)


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    text = read_text(path, error=TableError)
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    lines = enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), start=1)
    try:
        _, header = next(lines, (1, []))
        if len(set(header)) < len(header) or not all(header):
            raise TableError(f"{path}: the header needs a name for each column, each once")
        for number, cells in lines:
            if len(cells) > len(header):
                raise TableError(
                    f"{path}, row {number}: {len(cells)} cells, and {len(header)} columns; a text "
                    f"that holds {delimiter!r} has to stand in quotes"
                )
            if cells:
                yield number, dict(zip(header, cells + [""] * len(header), strict=False))
    except csv.Error as error:
        raise TableError(f"{path}: not readable as CSV ({error})") from None


def _jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(read_text(path, error=TableError).split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield number, _object(parse_json(line, place, error=TableError), place)


def _json(path: Path) -> Iterator[tuple[int, Row]]:
    content = parse_json(read_text(path, error=TableError), str(path), error=TableError)
    if not isinstance(content, list):
        raise TableError(f"{path}: must be a JSON list of objects, one for each row")
    for number, value in enumerate(content, start=1):
        yield number, _object(value, f"{path}, row {number}")


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import duckdb
    except ImportError:
        raise TableError(
            f"{path}: reading Parquet takes the package duckdb: pip install "
            "'artifact-harness[parquet]'"
        ) from None
    if not path.is_file() or path.stat().st_size > LARGEST_TEXT:
        raise TableError(f"{path}: no such file, or larger than {LARGEST_TEXT // 1024**2} MiB")
    try:
        with duckdb.connect(config=_CLOSED) as connection:
            found = connection.read_parquet(str(path.resolve()))
            names, rows = found.columns, found.fetchall()
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0]
        raise TableError(f"{path}: not readable as Parquet ({reason})") from None
    for number, row in enumerate(rows, start=1):
        yield number, dict(zip(names, row, strict=True))


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise TableError(f"{place}: must be a JSON object, found {type(value).__name__}")
    return value


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".parquet": _parquet,
}
