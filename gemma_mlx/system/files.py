"""Text and JSON files, writing files whole or not at all, and what can name one."""

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
import unicodedata
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from gemma_mlx.errors import UserError
from gemma_mlx.system.terminal import printable

#: Bytes of the largest text or JSON file that is read.
LARGEST_TEXT = 256 * 1024**2
# Digits; float() takes no integer that is much longer.
_LONGEST_INTEGER = 300
# Bytes of the longest name that a run gives to a file in a folder, temporary ones included.
_LONGEST_NAME = 120
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")
_MAY_HOLD_ONE = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def name_fault(name: str, *, longest: int = 255) -> str | None:
    """Why a text that somebody else wrote can't be the name of a file or folder; None if it can.

    Args:
        longest: bytes it may have.
    """
    hidden = [c for c in name if unicodedata.category(c)[0] in "CZ" and c != " "]
    bad = hidden or [c for c in name if c in '/\\:*?"<>|']
    if bad:
        return f"the name holds {bad[0]!r}, unsafe in a path"
    if not name or name != name.strip(" .") or name.startswith("-"):
        return (
            "a name must not be empty, begin with a dot, dash or blank, or end with a dot or blank"
        )
    if len(name.encode()) > longest or _RESERVED.fullmatch(name):
        return (
            f"a name must be at most {longest} bytes long and not one that an operating system "
            "reserves"
        )
    return None


def write_whole(path: Path, content: bytes, *, error: type[UserError] = UserError) -> None:
    """Write a file so that it is there whole or not at all, also after a crash.

    Folders on the way to it are made.

    Args:
        error: the class to raise.

    Raises:
        UserError: the disk is full, the folder can't be written, …; the message begins with the
            path, what was there before is left as it was, and nothing else is left behind.
    """
    try:
        _write_whole(path, content)
    except OSError as fault:
        raise error(f"{path}: cannot be written ({fault.strerror or fault})") from fault


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def folder_fault(folder: Path) -> str | None:
    """Why no file can be written into a folder, which need not be there yet; None if one can."""
    try:
        # A name that no folder can have is refused here already.
        with suppress(FileNotFoundError, NotADirectoryError):
            (folder / ("x" * _LONGEST_NAME)).stat()
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            return f"{there} is a file, not a folder"
        # What permissions don't tell, a nameless file does.
        tempfile.TemporaryFile(dir=there).close()
    except OSError as fault:
        return f"nothing can be written there ({fault.strerror})"
    except ValueError as fault:
        return f"nothing can be written there ({fault})"
    return None


def json_bytes(content: Any) -> bytes:
    """JSON as UTF-8, with an indent of one blank and a line's end."""
    return f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode()


def write_json(path: Path, content: Any) -> None:
    """Write `json_bytes`, whole or not at all, as `write_whole`."""
    write_whole(path, json_bytes(content))


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, *, error: type[UserError] = UserError) -> str:
    """The content of a text file: UTF-8, with or without a byte order mark.

    Args:
        error: the class to raise.

    Raises:
        UserError: no such file; not a regular file (a pipe or device may never end); larger than
            `LARGEST_TEXT`; or not readable. The message begins with the path.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size > LARGEST_TEXT:
            raise OSError(errno.EFBIG, f"larger than {LARGEST_TEXT // 1024**2} MiB")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror})") from None
    except UnicodeDecodeError as fault:
        raise error(f"{path}: not UTF-8 text ({fault.reason} at byte {fault.start})") from None
    except ValueError as fault:
        # A path that no file can have.
        raise error(f"{path}: cannot be read ({fault})") from None


def read_json(path: Path, *, error: type[UserError] = UserError) -> Any:
    """The content of a JSON file; raises what `read_text` and `parse_json` do."""
    return parse_json(read_text(path, error=error), str(path), error=error)


def parse_json(text: str, source: str, *, error: type[UserError] = UserError) -> Any:
    """The content of a JSON text.

    Args:
        source: what the error's message calls the text.
        error: the class to raise.

    Raises:
        UserError: not JSON; a key that occurs twice in one object; an integer of more than 300
            digits; half a surrogate pair, which no file in UTF-8 can hold; or nested too deeply
            for Python. The message names `source` and the place.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unrepeated, parse_int=_integer)
    except json.JSONDecodeError as fault:
        place = f"line {fault.lineno}, column {fault.colno}"
        raise error(f"{source}: not valid JSON: {fault.msg} ({place})") from None
    except RecursionError:
        raise error(f"{source}: not readable as JSON: nested too deeply") from None
    except ValueError as fault:
        raise error(f"{source}: {fault}") from None
    if _MAY_HOLD_ONE.search(text) and (found := _half_surrogate(content)) is not None:
        raise error(f"{source}: half a surrogate pair at {printable(found) or 'the top'}")
    return content


def _unrepeated(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in items:
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice in one object")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _half_surrogate(content: Any) -> str | None:
    """Where in a JSON value a text holds half a surrogate pair, as `a/0/b`; None if none does."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str) and _HALF_SURROGATE.search(value):
            return place
        if isinstance(value, dict):
            parts = list(value.items())
        else:
            parts = list(enumerate(value)) if isinstance(value, list) else []
        for key, part in parts:
            inside = f"{place}/{key}" if place else str(key)
            waiting += [(inside, key), (inside, part)]
    return None
