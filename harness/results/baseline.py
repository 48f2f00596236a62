"""Runs kept to compare later ones with: `.artifact_baselines/0001_name.safetensors`.

One file holds a run's token means (float64), which a paired comparison needs, and its results
with their provenance as JSON in the safetensors header.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gemma_mlx.errors import UserError
from gemma_mlx.system.files import parse_json, write_whole
from harness.analysis.comparison import (
    BaselineError,
    SavedRun,
    VersionComparison,
    compare_versions,
)
from harness.analysis.findings import Findings
from harness.analysis.layers import layer_id
from harness.data.activations import PairActivations
from harness.data.pairs import Pair
from harness.defaults import MOST_LAYERS
from harness.results.file import from_json, to_json
from harness.settings import BASELINES

#: Version of a baseline's layout.
FORMAT = 5

_FILE = re.compile(r"(\d{4,})_(.+)\.safetensors")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def save_baseline(name: str, found: Findings, directory: Path = BASELINES) -> Path:
    """Write a run under the next number; nothing that was saved before is touched.

    Raises:
        BaselineError: a name that isn't letters, digits, dots, dashes and underscores, or results
            without activations.
        gemma_mlx.errors.UserError: the directory can't be written.
    """
    check_name(name)
    held = found.analysis.activations
    if not held.keys:
        raise BaselineError(
            f"can't save {name!r}: results that were read from a file have no activations; save "
            "the run that made them"
        )
    tensors = {
        # What isn't contiguous, safetensors writes in another order without a word.
        f"{arm}/{layer_id(*key)}": np.ascontiguousarray(array)
        for arm, arrays in (("artifact", held.artifact), ("natural", held.natural))
        for key, array in zip(held.keys, arrays, strict=True)
    }
    header = {
        "format": FORMAT,
        "pairs": [
            [p.category, p.id, p.natural, p.artifact, label]
            for p, label in zip(held.pairs, held.clusters, strict=True)
        ],
        "keys": [list(key) for key in held.keys],
        "results": to_json(found),
    }
    content = save(tensors, {"baseline": json.dumps(header, sort_keys=True, allow_nan=False)})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Locked until it is closed: two runs that are saved at once don't take the same number.
        handle = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            number = 1 + max((number for number, _, _ in _listed(directory)), default=0)
            path = directory / f"{number:04d}_{name}.safetensors"
            write_whole(path, content)
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror or error})") from error
    return path


def check_name(name: str) -> None:
    """Raise `BaselineError` unless `name` can name a baseline."""
    if not _NAME.fullmatch(name):
        raise BaselineError(
            f"baseline name {name!r}: use letters, digits, dots, dashes and underscores"
        )


def find_baseline(name: str, directory: Path = BASELINES) -> Path:
    """The file of a baseline given as name (its latest), number or path.

    Raises:
        BaselineError: there is none; the message says how to make one.
    """
    path = Path(name)
    if path.suffix == ".safetensors" or os.sep in name:
        # Some names no file can have.
        with suppress(OSError):
            if path.is_file():
                return path
        raise BaselineError(f"{name}: no such baseline file")
    listed = _listed(directory)
    for number, known, file in reversed(listed):
        if known == name or file.stem == name or (name.isdecimal() and int(name) == number):
            return file
    there = ", ".join(file.stem for _, _, file in listed) or "none"
    raise BaselineError(
        f"no baseline {name!r} in {directory}/ (there: {there}); make one from the version to "
        f"compare with: pytest artifact_checks --artifact-model PATH --artifact-save "
        f"{name if _NAME.fullmatch(name) else 'NAME'}"
    )


def list_baselines(directory: Path = BASELINES) -> list[Path]:
    """The files of all baselines, oldest first."""
    return [file for _, _, file in _listed(directory)]


def load_baseline(path: Path) -> SavedRun:
    """Read a baseline; every shape in it is checked against the others.

    Raises:
        BaselineError: damaged, of another format, or at odds with itself.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = parse_json((file.metadata() or {})["baseline"], "its header")
            if header["format"] != FORMAT:
                raise BaselineError(
                    f"{path}: baseline format {header['format']}, this version reads {FORMAT}"
                )
            pairs = tuple(Pair(*(str(text) for text in row[:4])) for row in header["pairs"])
            clusters = tuple(int(row[4]) for row in header["pairs"])
            keys = tuple((int(layer), str(site)) for layer, site in header["keys"])
            arms = {
                arm: tuple(file.get_tensor(f"{arm}/{layer_id(*key)}") for key in keys)
                for arm in ("artifact", "natural")
            }
            found = from_json(header["results"], f"{path}: its results")
            if found.keys() != set(keys):
                raise BaselineError(f"{path}: its results and activations name other layers")
            depth = found.analysis.provenance["model_layers"]
            if type(depth) is not int or not 0 < depth <= MOST_LAYERS:
                raise BaselineError(f"{path}: its model_layers can't be {depth!r}")
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        if isinstance(error, BaselineError):
            raise
        raise BaselineError(f"{path}: not a baseline, or damaged ({error})") from error
    for key, artifact, natural in zip(keys, arms["artifact"], arms["natural"], strict=True):
        shape = (len(pairs), artifact.shape[-1] if artifact.ndim == 2 else -1)
        if not artifact.dtype.kind == natural.dtype.kind == "f":
            raise BaselineError(
                f"{path}: {layer_id(*key)} holds {artifact.dtype} and {natural.dtype}, not floats"
            )
        if artifact.shape != shape or natural.shape != shape:
            raise BaselineError(
                f"{path}: {layer_id(*key)} has shapes {artifact.shape} and {natural.shape} for "
                f"{len(pairs)} pairs"
            )
        if not (np.isfinite(artifact).all() and np.isfinite(natural).all()):
            raise BaselineError(f"{path}: {layer_id(*key)} holds NaN or infinity")
    analysis = replace(
        found.analysis, activations=PairActivations(pairs, keys, clusters=clusters, **arms)
    )
    return saved_run(path, replace(found, analysis=analysis))


def readable(files: Iterable[Path], say: Callable[[str], object]) -> Iterator[SavedRun]:
    """Baselines one after the other. What can't be read, one of another format for instance, stays
    where it is, and why is told to `say`."""
    for file in files:
        try:
            yield load_baseline(file)
        except BaselineError as error:
            say(str(error))


def compare_with(baseline: SavedRun, found: Findings) -> VersionComparison:
    """Compare a run (B) with a saved one (A), both by the criteria of B.

    Raises:
        BaselineError: pairs, settings, sites or template differ; all of them are named.
    """
    return compare_versions(baseline, saved_run(Path("this run"), found), found.criteria)


def saved_run(path: Path, found: Findings) -> SavedRun:
    """What was found, as a run that others are compared with."""
    return SavedRun(path, found.analysis, found.criteria, found.interventions)


def _listed(directory: Path) -> list[tuple[int, str, Path]]:
    """Number, name and file of every baseline, oldest first."""
    found = ((_FILE.fullmatch(file.name), file) for file in directory.glob("*.safetensors"))
    return sorted((int(name[1]), name[2], file) for name, file in found if name)
