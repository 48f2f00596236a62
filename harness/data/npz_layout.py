"""The original project's layout: `<dir>/<group>/prompt_list/batch_1/activations_step_<N>.npz`.

What is in it and how a run is written in it; `harness.data.npz_run` reads it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from gemma_mlx.npz import write_steps
from gemma_mlx.system.files import write_json, write_whole
from harness.data.pairs import PromptPairs
from harness.data.store import RunStore, StoreError

#: The directory below each group's.
SUBCATEGORY = "prompt_list"
#: Name of a layer's array in the original project's files.
KEY_TEMPLATE = "model.layers.{layer}.mlp.output"
#: What was written for each prompt, by group, beside the groups' directories.
RESPONSES = "results.json"
# Which run was written into a directory.
_CLAIM = "collection.json"

# Per group and site (layers, steps, width).
_Batch = dict[str, dict[str, np.ndarray]]


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

    Args:
        output: a directory that isn't there, is empty, or holds this run already.
        prefill: the run at the prompts' last tokens.
        compress: pack the files, which takes longer than writing them as they are.

    Raises:
        StoreError: the directory holds something else.
        gemma_mlx.errors.UserError: it can't be written.
    """
    prompts = pairs.prompts()
    facts = {
        group: {"prompt": prompts[group], **asdict(response)}
        for group, response in sorted(run.responses().items())
    }
    _claim(output, run.key)
    write_json(output / RESPONSES, facts)

    def tokens(of: RunStore) -> dict[str, list[dict[str, np.ndarray]]]:
        return {site: [of.tokens(site, layer) for layer in layers] for site in sites}

    def batch(group: str, found: Mapping[str, list[dict[str, np.ndarray]]]) -> _Batch:
        return {group: {site: np.stack([a[group] for a in each]) for site, each in found.items()}}

    steps, last = tokens(run), tokens(prefill) if prefill else None
    for group in prompts:
        write_steps(
            output / group / SUBCATEGORY / "batch_1",
            batch(group, steps),
            layers,
            prefill=batch(group, last) if last else None,
            compress=compress,
        )


def _claim(output: Path, key: str) -> None:
    """Note in a directory which run it holds; a `StoreError` if it holds anything else."""
    claim, content = output / _CLAIM, f"{json.dumps({'run': key})}\n".encode()
    try:
        taken = output.exists() and any(output.iterdir())
        if taken and not (claim.exists() and claim.read_bytes() == content):
            raise StoreError(f"{output}: holds another collection; name another directory")
    except OSError as error:
        raise StoreError(f"{output}: cannot be read ({error.strerror})") from error
    write_whole(claim, content)
