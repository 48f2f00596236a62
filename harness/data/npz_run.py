"""Activations from npz files in the original project's layout (see `harness.data.npz_layout`).

Whoever made them: one prompt to a folder, or several to a batch. Where the batch axis is longer
than 1, `prompt_metadata.json` beside the files says whose rows they are:
`{"rows": ["natural_one_q1", …]}`, and, where lengths differ, `"steps": [20, 7, …]`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gemma_mlx.npz import METADATA, step_file
from gemma_mlx.sites import OTHER_SITES, SITES
from gemma_mlx.system.files import name_fault, read_json
from harness.data.activations import AnalysisError
from harness.data.npz_file import array_names, read_rows
from harness.data.npz_layout import KEY_TEMPLATE, RESPONSES, SUBCATEGORY
from harness.data.pairs import PromptPairs
from harness.data.store import Response, layer_row

#: The tokens' own input embeddings: the residual stream before layer 0.
EMBEDDINGS_KEY = f"model.layers.0.{SITES['resid_pre'].npz_suffix}"

# Up to 99999: a stray file can't make a million steps of everything else missing.
_STEP = re.compile(r"activations_step_(0|[1-9]\d{0,4})\.npz")


@dataclass(frozen=True)
class NpzRun:
    """A `harness.data.activations.Run` that was read from npz files.

    Attributes:
        source: the directory.
        site: the only one there is; a name of `gemma_mlx.SITES`, or made from the key template.
        layers: numbers of the layers that were read.
        arrays: float32 (layers, steps, width) by group; 0 steps for a group without files.
        written: what was answered, by group, where the directory says so.
        missing: by group, steps without a file, though the group's answer, the metadata or, without
            these, the longest of the others has them.
        ignored: by group, steps after a gap, which were left out, because step t of one prompt is
            compared with step t of the other.
        embedded: the tokens' input embeddings by group, (steps, width), where the files hold them.
    """

    source: Path
    site: str
    layers: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]
    written: Mapping[str, Response]
    missing: Mapping[str, tuple[int, ...]]
    ignored: Mapping[str, tuple[int, ...]]
    embedded: Mapping[str, np.ndarray] | None = None

    @property
    def embeddings(self) -> "NpzRun | None":
        """The same responses, represented by their tokens' input embeddings: site "resid_pre" of
        layer 0; None where the files lack it."""
        if self.embedded is None:
            return None
        arrays = {group: array[None] for group, array in self.embedded.items()}
        return replace(self, site="resid_pre", layers=(0,), arrays=arrays, embedded=None)

    def tokens(self, site: str, layer: int) -> dict[str, np.ndarray]:
        """As `Run.tokens`; the layers that were read are there, whatever the site is called."""
        row = layer_row(layer, self.layers, self.source)
        return {group: array[row] for group, array in self.arrays.items()}

    def responses(self) -> dict[str, Response]:
        """What was written for each prompt, by group: token ids of the steps that were read, and
        an empty text where the directory has none."""
        unknown = Response((), "", "unknown")
        found = {group: self.written.get(group, unknown) for group in self.arrays}
        return {
            group: replace(answer, token_ids=answer.token_ids[: self.arrays[group].shape[1]])
            for group, answer in found.items()
        }


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
        steps: how many steps to read at most; all by default.
        layers: numbers of the layers to read; by default all that the files have.

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
    written = _responses(source)
    folders = {g: source / g / subcategory / "batch_1" for g in pairs.prompts()}
    places = _places(source, folders)
    found = {group: _steps(place, steps) for group, place in places.items()}
    if not any(found.values()):
        example = next(iter(folders.values())) / step_file(0)
        raise AnalysisError(f"{source}: no activations of these pairs; {example} isn't there")
    longest = max(max(there) + 1 for there in found.values() if there)
    first = next(place.folder / step_file(min(found[g])) for g, place in places.items() if found[g])
    chosen = tuple(layers) if layers is not None else _layers(first, key_template)
    keys = [key_template.replace("{layer}", str(layer)) for layer in chosen]
    missing, ignored, whole = {}, {}, {}
    for group, place in places.items():
        there, answer = found[group], written.get(group)
        whole[group] = min(set(range(longest + 1)) - there)
        due = range(steps or longest)[: len(answer.token_ids) if answer else place.steps]
        if absent := sorted(set(due) - there):
            missing[group] = tuple(absent)
        if after := sorted(step for step in there if step > whole[group]):
            ignored[group] = tuple(after)
    arrays = _read(places, whole, keys)
    embedded = None
    if EMBEDDINGS_KEY in array_names(first):
        embedded = {g: found[0] for g, found in _read(places, whole, [EMBEDDINGS_KEY]).items()}
    site = _site(key_template)
    return NpzRun(source, site, chosen, arrays, written, missing, ignored, embedded)


@dataclass(frozen=True)
class _Place:
    """Where one prompt's activations are: in which row of the files in a folder, and how many of
    their steps are its own; None where no metadata says so."""

    folder: Path
    row: int | None = None
    steps: int | None = None


def _places(source: Path, folders: Mapping[str, Path]) -> dict[str, _Place]:
    """Each group's place: where the metadata says, else in its own folder."""
    described = _described(source)
    taken = {place.folder for place in described.values()}
    for group, folder in folders.items():
        if group not in described and folder in taken:
            raise AnalysisError(f"{folder / METADATA}: names other prompts, and not {group}")
    return {group: described.get(group) or _Place(f) for group, f in folders.items()}


def _described(source: Path) -> dict[str, _Place]:
    """Places by group, as the metadata files below `source` say."""
    found: dict[str, _Place] = {}
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
            expected = '{"rows": [group, …]}, and "steps" as many counts'
            raise AnalysisError(f"{file}: expected {expected}")
        for number, (group, count) in enumerate(zip(rows, lengths, strict=True)):
            if group in found:
                raise AnalysisError(f"{file}: {group} is also in {found[group].folder}")
            found[group] = _Place(file.parent, number, count)
    return found


def _steps(place: _Place, most: int | None) -> set[int]:
    """Steps of this place that have a file, below `most`."""
    names = (_STEP.fullmatch(file.name) for file in place.folder.glob("*.npz"))
    found = {int(name[1]) for name in names if name}
    limits = [limit for limit in (most, place.steps) if limit is not None]
    return {step for step in found if all(step < limit for limit in limits)}


def _read(
    places: Mapping[str, _Place], steps: Mapping[str, int], keys: Sequence[str]
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
            vectors = read_rows(file, [places[group].row for group in going], keys)
            width = width or vectors.shape[2]
            if vectors.shape[2] != width:
                raise AnalysisError(f"{file}: width {vectors.shape[2]}, others have {width}")
            for group, mine in zip(going, vectors, strict=True):
                found[group].append(mine)
    nothing = np.zeros((len(keys), 0, width or 0), np.float32)
    return {g: np.stack(read, axis=1) if read else nothing for g, read in found.items()}


def _layers(file: Path, key_template: str) -> tuple[int, ...]:
    before, after = key_template.split("{layer}", 1)
    pattern = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    names = array_names(file)
    layers = sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))
    if not layers:
        raise AnalysisError(
            f"{file}: no array is named like {key_template!r} (there: {', '.join(names[:3])}, …)"
        )
    return tuple(layers)


def _site(key_template: str) -> str:
    """The site's name, or what the template calls it."""
    for site in (*SITES.values(), *OTHER_SITES.values()):
        if key_template == f"model.layers.{{layer}}.{site.npz_suffix}":
            return site.name
    return re.sub(r"\W+", "_", key_template.split("{layer}", 1)[1]).strip("_") or "activations"


def _responses(source: Path) -> dict[str, Response]:
    """What was answered, by group; nothing where the directory doesn't say."""
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
    content = read_json(file, error=AnalysisError)
    if not isinstance(content, dict):
        raise AnalysisError(f"{file}: expected a JSON object")
    return content
