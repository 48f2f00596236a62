"""The seed's activations, `<dir>/<group>/prompt_list/batch_1/activations_step_<N>.npz`.

Read from whoever made it, one prompt to a directory or several to a batch; written from a run.
Where the batch axis is longer than 1, `prompt_metadata.json` beside the files says whose rows they
are: `{"rows": ["natural_one_q1", …]}`, and, where lengths differ, `"steps": [20, 7, …]`.
"""

import json
import lzma
import math
import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gemma_mlx import SITES
from gemma_mlx.npz import METADATA, step_file, write_steps
from gemma_mlx.system.files import name_fault, write_whole
from harness.data.activations import AnalysisError
from harness.data.pairs import PromptPairs
from harness.data.store import Response, RunStore, StoreError, layer_row

SUBCATEGORY = "prompt_list"
KEY_TEMPLATE = "model.layers.{layer}.mlp.output"
#: What was written for each prompt, by group, beside the groups' directories.
RESPONSES = "results.json"
#: Which run was written into a directory.
CLAIM = "collection.json"

# Bytes of one array: more than any batch at any width has, less than a machine's memory.
_LARGEST_ARRAY = 1 << 28

# NumPy's and zipfile's words for a file that isn't what it should be: cut off, encrypted, pickled.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    NotImplementedError,
    RuntimeError,
)
# Up to 99999: a stray file can't make a million steps of everything else missing.
_STEP = re.compile(r"activations_step_(0|[1-9]\d{0,4})\.npz")


@dataclass(frozen=True)
class NpzRun:
    """Activations that were read from such a directory; stands in for a `RunStore`.

    `arrays` holds float32 (layers, steps, width) per group, groups without files 0 steps;
    `missing` lists, per group, the steps that aren't there though its answer, the metadata or,
    without these, the longest of the others has them; `ignored` those that lie after a gap and
    were left out, because step t of one prompt is compared with step t of the other.
    """

    source: Path
    site: str
    layers: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]
    written: Mapping[str, Response]
    missing: Mapping[str, tuple[int, ...]]
    ignored: Mapping[str, tuple[int, ...]]

    def tokens(self, site: str, layer: int) -> dict[str, np.ndarray]:
        """As `RunStore.tokens`."""
        row = layer_row(layer, self.layers, self.source)
        return {group: array[row] for group, array in self.arrays.items()}

    def responses(self) -> dict[str, Response]:
        """As `RunStore.responses`, with the token ids of the steps that were read; empty texts
        where the directory has none."""
        unknown = Response((), "", "unknown")
        found = {group: self.written.get(group, unknown) for group in self.arrays}
        return {
            group: replace(answer, token_ids=answer.token_ids[: self.arrays[group].shape[1]])
            for group, answer in found.items()
        }


def write_npz(
    run: RunStore,
    pairs: PromptPairs,
    output: Path,
    *,
    layers: Sequence[int],
    sites: Sequence[str],
    prefill: RunStore | None = None,
    compress: bool = True,
) -> None:
    """Write a complete run that captured `sites` at `layers`, and what was answered.

    `prefill` is the same collection at the prompts' last tokens.

    Raises:
        UserError: the directory can't be written, or holds something else already.
    """
    prompts = pairs.prompts()
    facts = {
        group: {
            "prompt": prompts[group],
            "text": response.text,
            "token_ids": list(response.token_ids),
            "finish_reason": response.finish_reason,
        }
        for group, response in sorted(run.responses().items())
    }
    _claim(output, run.key)
    content = f"{json.dumps(facts, indent=1, ensure_ascii=False)}\n".encode()
    write_whole(output / RESPONSES, content)
    stacked, last = (
        None if r is None else {s: [r.tokens(s, layer) for layer in layers] for s in sites}
        for r in (run, prefill)
    )
    assert stacked is not None
    for group in prompts:
        folder = output / group / SUBCATEGORY / "batch_1"
        write_steps(
            folder,
            {group: _of(stacked, group)},
            layers,
            prefill=None if last is None else {group: _of(last, group)},
            compress=compress,
        )


def _claim(output: Path, key: str) -> None:
    """Say whose directory this is; one that holds anything else isn't written into."""
    claim, content = output / CLAIM, f"{json.dumps({'run': key})}\n".encode()
    try:
        free = not output.exists() or not any(output.iterdir())
        ours = not free and claim.exists() and claim.read_bytes() == content
    except OSError as error:
        raise StoreError(f"{output}: cannot be read ({error.strerror})") from error
    if not free and not ours:
        raise StoreError(f"{output}: holds another collection; name another directory")
    write_whole(claim, content)


def _of(tokens: Mapping[str, Sequence[Mapping[str, np.ndarray]]], group: str) -> dict[str, Any]:
    """One prompt's (layers, steps, width) by site."""
    return {site: np.stack([layer[group] for layer in found]) for site, found in tokens.items()}


def read_npz(
    source: Path,
    pairs: PromptPairs,
    *,
    key_template: str = KEY_TEMPLATE,
    subcategory: str = SUBCATEGORY,
    steps: int | None = None,
    layers: Sequence[int] | None = None,
) -> NpzRun:
    """Read the activations of these pairs.

    Args:
        key_template: name of a layer's array, with `{layer}` for its number.
        subcategory: the directory below each group's.
        steps: steps to read at most; all by default.
        layers: all that the files have, by default.

    Raises:
        AnalysisError: nothing of these pairs is there, or a file is damaged, lacks an array, or
            holds one of another shape; the file is named.
    """
    if "{layer}" not in key_template:
        raise AnalysisError(f"key template {key_template!r}: it needs {{layer}} for the number")
    faults = [name_fault(part) for part in subcategory.split("/")]
    if any(faults):
        raise AnalysisError(
            f"subcategory {subcategory!r}: expected a directory below each group's; "
            f"{next(filter(None, faults))}"
        )
    if not source.is_dir():
        raise AnalysisError(f"{source}: no such directory of activations")
    rows = _rows(source)
    groups = list(pairs.prompts())
    written = _responses(source)
    described = {row.folder for row in rows.values()}
    places: dict[str, _Row] = {}
    for group in groups:
        folder = source / group / subcategory / "batch_1"
        if group not in rows and folder in described:
            raise AnalysisError(f"{folder / METADATA}: names other prompts, and not {group}")
        places[group] = rows.get(group) or _Row(folder, None, None)
    found = {group: _steps(place, steps) for group, place in places.items()}
    if not any(found.values()):
        example = source / groups[0] / subcategory / "batch_1" / step_file(0)
        raise AnalysisError(f"{source}: no activations of these pairs; {example} isn't there")
    longest = max(max(there) + 1 for there in found.values() if there)
    wanted = range(steps or longest)
    first = next(place.folder / step_file(min(found[g])) for g, place in places.items() if found[g])
    chosen = tuple(layers) if layers is not None else _layers(first, key_template)
    keys = [key_template.replace("{layer}", str(layer)) for layer in chosen]
    missing: dict[str, tuple[int, ...]] = {}
    ignored: dict[str, tuple[int, ...]] = {}
    whole: dict[str, int] = {}
    for group, place in places.items():
        there = found[group]
        whole[group] = next((step for step in range(longest + 1) if step not in there), 0)
        answer = written.get(group)
        own = len(answer.token_ids) if answer else place.steps
        due = [step for step in wanted if own is None or step < own]
        absent = tuple(step for step in due if step not in there)
        after = tuple(sorted(step for step in there if step > whole[group]))
        missing |= {group: absent} if absent else {}
        ignored |= {group: after} if after else {}
    arrays = _read(places, whole, keys)
    return NpzRun(source, _site(key_template), chosen, arrays, written, missing, ignored)


@dataclass(frozen=True)
class _Row:
    """Where one prompt's activations are: a row of the files in a folder, the only one where no
    metadata says which, and how many steps of them are its own."""

    folder: Path
    row: int | None
    steps: int | None


def _rows(source: Path) -> dict[str, _Row]:
    """Rows by group, as the metadata files below `source` say."""
    found: dict[str, _Row] = {}
    for file in sorted(source.rglob(METADATA)):
        facts = _json(file)
        rows = facts.get("rows")
        if rows is None:
            # The metadata of a run of `python -m gemma_mlx` has no rows at its top.
            continue
        lengths: Any = facts.get("steps", [None] * len(rows) if isinstance(rows, list) else [])
        good = (
            isinstance(rows, list)
            and all(isinstance(row, str) for row in rows)
            and isinstance(lengths, list)
            and len(lengths) == len(rows)
            and all(n is None or (type(n) is int and n >= 0) for n in lengths)
        )
        if not good:
            raise AnalysisError(
                f'{file}: expected {{"rows": [group, …]}}, and "steps" as many counts'
            )
        for number, (group, count) in enumerate(zip(rows, lengths, strict=True)):
            if group in found:
                raise AnalysisError(f"{file}: {group} is also in {found[group].folder}")
            found[group] = _Row(file.parent, number, count)
    return found


def _steps(place: _Row, most: int | None) -> set[int]:
    if not place.folder.is_dir():
        return set()
    names = (_STEP.fullmatch(file.name) for file in place.folder.iterdir())
    limit = min((n for n in (most, place.steps) if n is not None), default=None)
    return {int(n[1]) for n in names if n and (limit is None or int(n[1]) < limit)}


def _read(
    places: Mapping[str, _Row], steps: Mapping[str, int], keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """Each group's (layers, steps, width), as many steps as `steps` has; every file opened once."""
    folders: dict[Path, list[str]] = {}
    for group, place in places.items():
        folders.setdefault(place.folder, []).append(group)
    found: dict[str, list[np.ndarray]] = {group: [] for group in places}
    width: int | None = None
    for folder, groups in folders.items():
        for step in range(max(steps[group] for group in groups)):
            going = [group for group in groups if step < steps[group]]
            file = folder / step_file(step)
            vectors = _vectors(file, [places[group].row for group in going], keys)
            width = width or vectors.shape[2]
            if vectors.shape[2] != width:
                raise AnalysisError(f"{file}: width {vectors.shape[2]}, others have {width}")
            for group, mine in zip(going, vectors, strict=True):
                found[group].append(mine)
    nothing = np.zeros((len(keys), 0, width or 0), np.float32)
    return {g: np.stack(read, axis=1) if read else nothing for g, read in found.items()}


def _vectors(file: Path, rows: Sequence[int | None], keys: Sequence[str]) -> np.ndarray:
    """Some rows of one file, (rows, layers, width)."""
    try:
        with zipfile.ZipFile(file) as content:
            layers = [_layer(content, file, key, rows) for key in keys]
    except AnalysisError:
        raise
    except _UNREADABLE as error:
        raise AnalysisError(f"{file}: damaged, or not an npz file of numbers ({error})") from error
    if len({vectors.shape for vectors in layers}) > 1:
        raise AnalysisError(f"{file}: layers of different widths")
    return np.stack(layers, axis=1)


def _layer(
    content: zipfile.ZipFile, file: Path, key: str, rows: Sequence[int | None]
) -> np.ndarray:
    """Some rows (rows, width) of one array, alone, so that no more than one array is held."""
    names = _names(content)
    if key not in names:
        there = ", ".join(sorted(names)[:3])
        raise AnalysisError(f"{file}: no array {key!r} (there: {there}, …)")
    array = _array(content, names[key])
    if array.ndim != 3 or array.shape[1] != 1 or not np.issubdtype(array.dtype, np.floating):
        raise AnalysisError(
            f"{file}: {key} is {array.dtype} {array.shape}, expected floats (batch, 1, hidden)"
        )
    if None in rows and array.shape[0] > 1:
        raise AnalysisError(
            f"{file}: {key} holds {array.shape[0]} prompts; {METADATA} beside it has to say which"
        )
    numbers = [row or 0 for row in rows]
    if max(numbers) >= array.shape[0]:
        raise AnalysisError(f"{file}: {key} has {array.shape[0]} rows, no row {max(numbers)}")
    return np.array(array[numbers, 0], np.float32)


def _names(content: zipfile.ZipFile) -> dict[str, str]:
    """Members of an npz file by the name of their array."""
    return {name.removesuffix(".npy"): name for name in content.namelist()}


def _array(content: zipfile.ZipFile, member: str) -> np.ndarray:
    """One array of an npz file. What its header claims is looked at before there is room made
    for it, as `np.load` would: a small file may claim to be larger than the machine's memory."""
    size = content.getinfo(member).file_size
    if size > _LARGEST_ARRAY:
        raise ValueError(f"{member} takes {size} bytes, more than {_LARGEST_ARRAY}")
    with content.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"{member} is of npy version {version}")
        shape, _, dtype = read(stream)
        if math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"{member} claims shape {shape}, more than it holds")
    with content.open(member) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _layers(file: Path, key_template: str) -> tuple[int, ...]:
    """Layers that a file has."""
    before, after = key_template.split("{layer}", 1)
    pattern = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    try:
        with zipfile.ZipFile(file) as content:
            names = list(_names(content))
    except _UNREADABLE as error:
        raise AnalysisError(f"{file}: damaged, or not an npz file ({error})") from error
    layers = sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))
    if not layers:
        raise AnalysisError(
            f"{file}: no array is named like {key_template!r} (there: {', '.join(names[:3])}, …)"
        )
    return tuple(layers)


def _site(key_template: str) -> str:
    """The site's name, or what the template calls it."""
    for site in SITES.values():
        if key_template == f"model.layers.{{layer}}.{site.npz_suffix}":
            return site.name
    return re.sub(r"\W+", "_", key_template.split("{layer}", 1)[1]).strip("_") or "activations"


def _responses(source: Path) -> dict[str, Response]:
    file = source / RESPONSES
    if not file.exists():
        return {}
    found = {}
    for group, fact in _json(file).items():
        try:
            ids = tuple(map(int, fact["token_ids"]))
            found[group] = Response(ids, str(fact["text"]), str(fact["finish_reason"]))
        except (TypeError, KeyError, ValueError) as error:
            raise AnalysisError(f"{file}: {group!r} isn't a result ({error!r})") from error
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AnalysisError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise AnalysisError(f"{file}: expected a JSON object")
    return content
