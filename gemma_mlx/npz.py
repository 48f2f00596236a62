"""The original project's layout: npz files, one per generated token, `activations_step_<N>.npz`.

Each array is (batch, 1, width) float32 under its site's npz key (`gemma_mlx.SITES`), as scripts
that loop over steps and call `np.load` expect; `activations_step_prefill.npz` holds the prompts'
last tokens, and `prompt_metadata.json` says whose rows they are.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gemma_mlx.sites import OTHER_SITES, SITES
from gemma_mlx.system.files import write_json, write_whole

METADATA = "prompt_metadata.json"


def step_file(step: int | str) -> str:
    """Name of the file of a step's number, or of the step "prefill"."""
    return f"activations_step_{step}.npz"


def write_steps(
    folder: Path,
    batch: Mapping[str, Mapping[str, np.ndarray]],
    layers: Sequence[int],
    *,
    prefill: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    compress: bool = True,
) -> None:
    """Write the activations of a batch of prompts.

    A row that ended before others is NaN from there on, which no mean takes for zeros;
    `prompt_metadata.json` is `{"rows": [name, …], "steps": [count, …]}`.

    Args:
        folder: made if it isn't there; each file is whole or not there.
        batch: per prompt's name and site (layers, steps, width).
        layers: the model's numbers of these layers.
        prefill: as `batch`, for the prompts' last tokens: one step.
        compress: whether the npz files are compressed.

    Raises:
        UserError: the folder can't be written; the message names the file.
    """
    steps = [max((len(a[0]) for a in sites.values()), default=0) for sites in batch.values()]
    write_json(folder / METADATA, {"rows": list(batch), "steps": steps})
    for step in range(max(steps, default=0)):
        write_whole(folder / step_file(step), _packed(batch, layers, step, compress))
    if prefill is not None:
        write_whole(folder / step_file("prefill"), _packed(prefill, layers, 0, compress))


def _packed(
    batch: Mapping[str, Mapping[str, np.ndarray]], layers: Sequence[int], step: int, compress: bool
) -> bytes:
    arrays = {}
    for site in next(iter(batch.values())):
        for row, layer in enumerate(layers):
            steps = [sites[site][row] for sites in batch.values()]
            found = [a[step] if step < len(a) else np.full(a.shape[1], np.nan) for a in steps]
            arrays[{**SITES, **OTHER_SITES}[site].npz_key(layer)] = np.stack(
                found, dtype=np.float32
            )[:, None]
    content = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(content, allow_pickle=False, **arrays)
    return content.getvalue()
