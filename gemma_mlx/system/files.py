"""Writing files whole or not at all, and what can name one."""

import os
import re
import unicodedata
import uuid
from pathlib import Path

from gemma_mlx.errors import UserError

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def name_fault(name: str, *, longest: int = 255) -> str | None:
    """What keeps a text of someone else's from naming a file or folder; None if nothing does.

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
