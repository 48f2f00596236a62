"""Runs kept to compare later ones with: `.artifact_baselines/0001_name.safetensors`.

One file holds a run's token means (float64), which a paired comparison needs, and its results
with their provenance as JSON in the safetensors header.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gemma_mlx.system.files import write_whole
from harness.analysis.comparison import BaselineError, Version, VersionComparison, compare_versions
from harness.analysis.layers import Analysis, layer_id
from harness.data.activations import MOST_LAYERS, PairActivations
from harness.data.pairs import Pair
from harness.results.file import check, loads, to_json
from harness.settings import Criteria

#: Where baselines lie, in the working directory.
DIRECTORY = Path(".artifact_baselines")
FORMAT = 1

_FILE = re.compile(r"(\d{4,})_(.+)\.safetensors")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def save_baseline(
    name: str, analysis: Analysis, criteria: Criteria, directory: Path = DIRECTORY
) -> Path:
    """Write a run under the next number; nothing that was saved before is touched.

    Raises:
        BaselineError: a name that isn't letters, digits, dots, dashes and underscores.
        gemma_mlx.errors.UserError: the directory can't be written.
    """
    check_name(name)
    tensors = {
        # What isn't contiguous, safetensors writes in another order without a word.
        f"{arm}/{layer_id(*key)}": np.ascontiguousarray(array)
        for arm, arrays in (
            ("artifact", analysis.activations.artifact),
            ("natural", analysis.activations.natural),
        )
        for key, array in zip(analysis.activations.keys, arrays, strict=True)
    }
    header = {
        "format": FORMAT,
        "pairs": [[p.category, p.id, p.natural, p.artifact] for p in analysis.activations.pairs],
        "keys": [list(key) for key in analysis.activations.keys],
        "results": to_json(analysis, criteria),
    }
    content = save(tensors, {"baseline": json.dumps(header, sort_keys=True, allow_nan=False)})
    number = 1 + max((found for found, _, _ in _listed(directory)), default=0)
    path = directory / f"{number:04d}_{name}.safetensors"
    write_whole(path, content)
    return path


def check_name(name: str) -> None:
    """Raise `BaselineError` unless `name` can name a baseline."""
    if not _NAME.fullmatch(name):
        raise BaselineError(
            f"baseline name {name!r}: use letters, digits, dots, dashes and underscores"
        )


def find_baseline(name: str, directory: Path = DIRECTORY) -> Path:
    """The file of a baseline given as name (its latest), number or path.

    Raises:
        BaselineError: there is none; the message says how to make one.
    """
    path = Path(name)
    if path.suffix == ".safetensors" or os.sep in name:
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
        f"compare with: pytest artifact_checks --model PATH --artifact-save "
        f"{name if _NAME.fullmatch(name) else 'NAME'}"
    )


def load_baseline(path: Path) -> Version:
    """Read a baseline; every shape in it is checked against the others.

    Raises:
        BaselineError: damaged, of another format, or at odds with itself.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = loads((file.metadata() or {})["baseline"])
            if header["format"] != FORMAT:
                raise BaselineError(
                    f"{path}: baseline format {header['format']}, this version reads {FORMAT}"
                )
            pairs = tuple(Pair(*(str(text) for text in row)) for row in header["pairs"])
            keys = tuple((int(layer), str(site)) for layer, site in header["keys"])
            arms = {
                arm: tuple(file.get_tensor(f"{arm}/{layer_id(*key)}") for key in keys)
                for arm in ("artifact", "natural")
            }
            results = header["results"]
            check(results, "its results")
            if {entry["id"] for entry in results["layers"]} != {layer_id(*key) for key in keys}:
                raise BaselineError(f"{path}: its results and activations name other layers")
            depth = results["provenance"]["model_layers"]
            if type(depth) is not int or not 0 < depth <= MOST_LAYERS:
                raise BaselineError(f"{path}: its model_layers can't be {depth!r}")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
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
    return Version(path, PairActivations(pairs, keys, **arms), results)


def compare_with(
    baseline: Version, analysis: Analysis, criteria: Criteria, *, margin: float
) -> VersionComparison:
    """Compare a run (B) with a saved one (A).

    Raises:
        BaselineError: pairs, settings, sites or template differ; all of them are named.
    """
    return compare_versions(
        baseline,
        Version(Path("this run"), analysis.activations, to_json(analysis, criteria)),
        margin=margin,
        level=analysis.settings.level,
    )


def _listed(directory: Path) -> list[tuple[int, str, Path]]:
    """Number, name and file of every baseline, oldest first."""
    if not directory.is_dir():
        return []
    found = []
    for file in directory.iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.append((int(match[1]), match[2], file))
    return sorted(found)
