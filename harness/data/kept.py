"""What a store keeps: its runs, for people to look through and to clear away."""

import fcntl
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import read_json
from harness.data.store import FORMAT, LOCK, MANIFEST, SHARD, RunStore, StoreError

_RUN = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True)
class KeptRun:
    """A run in a store.

    Attributes:
        path: its directory, whose name is the run's.
        settings: what it is; empty where its manifest can't be read.
        model, pairs: what they were called when it was begun; empty in a store of before.
        state: "whole", "unfinished", or why it can't be read.
        size: bytes.
        date: when something was last written into it.
    """

    path: Path
    settings: dict[str, Any]
    model: str
    pairs: str
    state: str
    size: int
    date: datetime

    @property
    def name(self) -> str:
        return self.path.name


def kept_runs(root: Path) -> list[KeptRun]:
    """The runs of a store, oldest first.

    Raises:
        StoreError: there is no such folder, or it can't be read.
    """
    try:
        folders = [each for each in root.iterdir() if _RUN.fullmatch(each.name)]
        found = [_kept(each) for each in folders if each.is_dir() and not each.is_symlink()]
    except OSError as error:
        raise StoreError(f"{root}: cannot be read ({error.strerror})") from error
    return sorted(found, key=lambda run: (run.date, run.name))


def _kept(path: Path) -> KeptRun:
    files = [file.stat() for file in _files(path)]
    settings: dict[str, Any] = {}
    about: dict[str, str] = {}
    try:
        manifest = read_json(path / MANIFEST, error=StoreError)
        if manifest["format"] != FORMAT:
            state = f"of format {manifest['format']}"
        else:
            settings, about = dict(manifest["settings"]), dict(manifest.get("about", {}))
            run = RunStore(path.parent, settings)
            whole = run.path == path and run.complete()
            state = "whole" if whole else "unfinished"
    except (UserError, LookupError, TypeError, ValueError):
        state = "unfinished" if not (path / MANIFEST).exists() else "damaged"
    return KeptRun(
        path,
        settings,
        str(about.get("model", "")),
        str(about.get("pairs", "")),
        state,
        sum(status.st_size for status in files),
        datetime.fromtimestamp(max((s.st_mtime for s in files), default=0), UTC),
    )


def delete(run: KeptRun) -> bool:
    """Delete a run, and of its directory nothing that isn't the store's; False where a process is
    using it.

    Raises:
        StoreError: it can't be deleted.
    """
    try:
        with (run.path / LOCK).open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            for file in _files(run.path):
                file.unlink(missing_ok=True)
        if not any(run.path.iterdir()):
            run.path.rmdir()
    except OSError as error:
        raise StoreError(f"{run.path}: cannot be deleted ({error.strerror})") from error
    return True


def _files(path: Path) -> Iterator[Path]:
    for file in sorted(path.iterdir()):
        ours = file.name in (MANIFEST, LOCK) or SHARD.fullmatch(file.name)
        if (ours or file.suffix == ".tmp") and not file.is_dir():
            yield file
