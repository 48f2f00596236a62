"""Collected activations on disk: one directory per run, one content-named shard per batch.

A shard's name carries the sha256 of its bytes, so that the directory listing alone says what is
done and what it should hold. Shards are written under a temporary name, synced and renamed; a
crash leaves whole shards and at most one temporary file, which the next run deletes. Shards are
checked once, by `missing`, before anything is read from them.
"""

import fcntl
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import read_json, write_whole
from harness.progress import SILENT, Bars

#: Version of the layout on disk; part of every run's key.
FORMAT = 1

#: Names of a run's files.
MANIFEST = "manifest.json"
LOCK = "lock"
# Seconds that another process may take to look through a complete run without a word about it.
_PATIENCE = 2.0
SHARD = re.compile(r"batch_(\d{5})\.([0-9a-f]{64})\.safetensors")


class StoreError(UserError):
    """A store that can't be read or written, or lacks what is asked of it; the path is named."""


#: Finish reason of a text that the model was given to read.
FORCED = "forced"


@dataclass(frozen=True)
class Response:
    """What was written for one prompt, or, where `finish_reason` is "forced", read after it."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str

    @property
    def written(self) -> bool:
        """Whether the model wrote this text itself."""
        return bool(self.text) and self.finish_reason != FORCED


@dataclass(frozen=True)
class Record:
    """All that one prompt gave. `activations`: per site float32 (layers, steps, width); where
    layers have different widths, a list over layers of (steps, width)."""

    response: Response
    activations: Mapping[str, Any]


@dataclass(frozen=True)
class RunStore:
    """One run on disk.

    Attributes:
        root: the store's directory, which has one for each run.
        settings: what the run is, as JSON values; all of it is hashed into the key. The store
            itself looks only at "layers": the numbers of the captured ones, none for all.
        reused: the share of the run's prompts that was there before it was asked for.
        about: what people call its model and pairs, kept with it; no part of the key.
    """

    root: Path
    settings: Mapping[str, Any]
    reused: float = 0.0
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """sha256 over the settings and the format."""
        content = json.dumps({"format": FORMAT, **self.settings}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def path(self) -> Path:
        """The run's own directory."""
        return self.root / self.key[:24]

    @contextmanager
    def locked(self, waiting: str, *, job: str = "", bars: Bars = SILENT) -> Iterator[None]:
        """Hold the run's lock, and wait for whoever else does.

        The kernel drops the lock of a process that dies, so none can be left behind.

        Args:
            waiting: the text of a warning, given where the wait is longer than 2 seconds.
            job: processes that name the same one hold the lock together.
            bars: shows that text as long as the wait lasts.

        Raises:
            StoreError: the directory can't be written, or has no locks.
        """
        with ExitStack() as stack:
            with _writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                handle = stack.enter_context((self.path / LOCK).open("a+"))
                if not (job and _is_held_by(handle, job)):
                    if not _lock_within(handle, seconds=_PATIENCE):
                        warnings.warn(f"{self.path}: {waiting}", stacklevel=3)
                        with bars(bar_format=waiting):
                            fcntl.flock(handle, fcntl.LOCK_EX)
                    handle.truncate(0)
                    if job:
                        handle.write(job)
                        handle.flush()
                        # On a network's disk the others see it only then.
                        os.fsync(handle.fileno())
            yield

    def plan(self) -> list[list[str]] | None:
        """Groups of each batch, as fixed when the run began; None before that.

        Raises:
            StoreError: the manifest is damaged, of another format, or another run's.
        """
        file = self.path / MANIFEST
        if not file.exists():
            return None
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                fault = f"in format {manifest['format']!r}, and this version reads format {FORMAT}"
            elif manifest["batches_sha256"] != _digest(manifest["batches"]):
                fault = "damaged (its batches changed)"
            elif manifest["settings"] != json.loads(json.dumps(self.settings)):
                fault = "belongs to another run"
            else:
                return manifest["batches"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            fault = f"damaged ({error})"
        raise StoreError(f"{file}: {fault}; move the directory away")

    def begin(self, batches: Sequence[Sequence[str]]) -> None:
        """Write the plan; called once, under the lock, before the first shard."""
        listed = [list(batch) for batch in batches]
        manifest = {
            "format": FORMAT,
            "key": self.key,
            "settings": self.settings,
            "about": dict(self.about),
            "batches": listed,
            "batches_sha256": _digest(listed),
        }
        self._write(MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())

    def shards(self) -> dict[int, Path]:
        """Shards that are there, by batch number, sound or not (see `missing`)."""
        files = sorted(self.path.glob("*"))
        return {int(match[1]): file for file in files if (match := SHARD.fullmatch(file.name))}

    def missing(self) -> list[int]:
        """Numbers of the batches without a sound shard; called after `begin`, under the lock.

        A shard whose content isn't what its name or the plan says is deleted, with a warning that
        names it.

        Raises:
            StoreError: the manifest can't be used, or a damaged shard can't be deleted.
        """
        batches = self.plan()
        assert batches is not None, "begin() comes first"
        shards = self.shards()
        missing = []
        for number in range(len(batches)):
            if number in shards and not _sound(shards[number], batches[number]):
                warnings.warn(f"{shards[number]}: damaged, will be collected again", stacklevel=2)
                _remove(shards.pop(number))
            if number not in shards:
                missing.append(number)
        return missing

    def complete(self) -> bool:
        """Whether every batch has its shard, sound or not; raises what `plan` does."""
        plan = self.plan()
        return plan is not None and self.shards().keys() >= set(range(len(plan)))

    def wider(self) -> Iterator["RunStore"]:
        """Complete runs of the store that hold what this one does, and more layers or sites."""
        for file in sorted(self.root.glob(f"*/{MANIFEST}")):
            # What can't be read is somebody else's, or of another version.
            with suppress(UserError, LookupError, TypeError):
                settings = read_json(file, error=StoreError)["settings"]
                other = RunStore(self.root, settings)
                at_home = other.path == file.parent
                if at_home and _holds(settings, self.settings) and other.complete():
                    yield other

    def sweep(self) -> None:
        """Delete what an interrupted write left; called under the lock."""
        for file in self.path.glob("*.tmp"):
            _remove(file)

    def clear(self) -> None:
        """Delete every shard, so that all is collected again; called under the lock."""
        for shard in self.shards().values():
            _remove(shard)

    def write(self, number: int, records: Mapping[str, Record]) -> None:
        """Write the shard of batch `number`, with the records of its groups.

        Raises:
            StoreError: it can't be written; nothing is left of it.
        """
        tensors: dict[str, np.ndarray] = {}
        facts: dict[str, Any] = {}
        for group, record in records.items():
            facts[group] = asdict(record.response)
            for site, array in record.activations.items():
                parts = {"": array}
                if isinstance(array, list):
                    parts = {f"/{row}": layer for row, layer in enumerate(array)}
                for part, values in parts.items():
                    tensors[f"{group}/{site}{part}"] = np.ascontiguousarray(values, np.float32)
        # One metadata entry: safetensors keeps several in no fixed order.
        content = save(tensors, {"prompts": json.dumps(facts, sort_keys=True)})
        digest = hashlib.sha256(content).hexdigest()
        self._write(f"batch_{number:05d}.{digest}.safetensors", content)

    def receive(self, name: str, content: bytes) -> None:
        """Write a shard that another process made, under the name it had there.

        Raises:
            StoreError: the content isn't what the name says, or can't be written.
        """
        if not _is_named_for(name, content):
            raise StoreError(f"{self.path / name}: damaged on its way here")
        self._write(name, content)

    def responses(self) -> dict[str, Response]:
        """What was written for each prompt, by group; at positions "forced" what was read.

        Raises:
            StoreError: the run isn't complete.
        """
        found: dict[str, Response] = {}
        read = {"finish_reason": FORCED} if self.settings.get("positions") == "forced" else {}
        for shard in self._opened():
            for group, fact in json.loads(shard.metadata()["prompts"]).items():
                found[group] = Response(**{**fact, "token_ids": tuple(fact["token_ids"]), **read})
        return found

    def tokens(self, site: str, layer: int) -> dict[str, np.ndarray]:
        """Activations (steps, width), float32, by group, at one site of the model's layer number
        `layer`; only these are read.

        Raises:
            StoreError: the run isn't complete, or the layer wasn't captured.
        """
        found: dict[str, np.ndarray] = {}
        for shard in self._opened():
            names = set(shard.keys())
            for group in json.loads(shard.metadata()["prompts"]):
                name = f"{group}/{site}"
                alike = name in names
                # No layers in the settings stand for all of the model's.
                captured = self.settings["layers"] or range(
                    shard.get_slice(name).get_shape()[0]
                    if alike
                    else sum(other.startswith(f"{name}/") for other in names)
                )
                row = layer_row(layer, captured, self.path)
                # Layers of different widths have a tensor each.
                found[group] = (
                    shard.get_slice(name)[row] if alike else shard.get_tensor(f"{name}/{row}")
                )
        return found

    def _opened(self) -> Iterator[Any]:
        shards = self.shards()
        batches = range(len(self.plan() or []))
        absent = len(set(batches) - set(shards))
        if absent or not batches:
            raise StoreError(f"{self.path}: {absent} batches are missing; collect again")
        for number in batches:
            with safe_open(shards[number], framework="numpy") as shard:
                yield shard

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.path / name, content, error=StoreError)


def _holds(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    """Whether a run with the one settings holds all of a run with the other, and more."""
    chosen = {"layers", "sites"}
    one, other = ({k: v for k, v in each.items() if k not in chosen} for each in (wide, narrow))
    # No layers stand for all of the model's.
    layers = not wide["layers"] or bool(
        narrow["layers"] and set(narrow["layers"]) <= set(wide["layers"])
    )
    sites = set(narrow["sites"]) <= set(wide["sites"])
    return layers and sites and wide != narrow and one == json.loads(json.dumps(other))


def layer_row(layer: int, captured: Sequence[int], source: Path) -> int:
    """Where a layer's activations are in arrays that hold those of `captured`, read from `source`.

    Raises:
        StoreError: the layer isn't among them.
    """
    if layer not in captured:
        there = ", ".join(map(str, captured))
        raise StoreError(f"{source}: layer {layer} wasn't captured; there are layers {there}")
    return captured.index(layer)


def _is_held_by(handle: TextIO, job: str) -> bool:
    """Whether the lock is taken, and by this job."""
    if _lock_within(handle, seconds=0):
        fcntl.flock(handle, fcntl.LOCK_UN)
        return False
    handle.seek(0)
    return handle.read() == job


def _lock_within(handle: TextIO, *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)


def _digest(batches: list[list[str]]) -> str:
    return hashlib.sha256(json.dumps(batches).encode()).hexdigest()


def _remove(file: Path) -> None:
    with _writing(file):
        # Another rank of the same job may have been faster.
        file.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def _sound(file: Path, batch: Sequence[str]) -> bool:
    """Whether a shard is what was written, for the prompts of this batch."""
    try:
        if not _is_named_for(file.name, file.read_bytes()):
            return False
        with safe_open(file, framework="numpy") as shard:
            return json.loads(shard.metadata()["prompts"]).keys() == set(batch)
    except OSError:
        return False


def _is_named_for(name: str, content: bytes) -> bool:
    match = SHARD.fullmatch(name)
    return match is not None and hashlib.sha256(content).hexdigest() == match[2]
