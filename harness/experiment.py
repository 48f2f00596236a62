"""The whole way from a model and a pairs file to an `Analysis`."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gemma_mlx
from gemma_mlx import ALONE, Checkpoint, Positions, Ranks
from harness.analysis.layers import Analysis
from harness.analysis.layers import analyze as analyze_run
from harness.collect import collect
from harness.data.pairs import PromptPairs, load_pairs
from harness.data.store import RunStore
from harness.results.provenance import origin, provenance
from harness.settings import AnalysisSettings, CollectSettings

_FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
#: The embedded checkpoint and the embedded prompt pairs.
EMBEDDED_MODEL = _FIXTURES / "tiny-gemma3-aligned"
EMBEDDED_PAIRS = _FIXTURES / "alignment_artifact_prompt_pairs.json"

#: Where activations are kept, in the working directory.
STORE = Path(".artifact_store")

#: What is said where a signal ended the work.
INTERRUPTED = (
    "interrupted; what was finished is kept, and the same command, without --recollect, goes on "
    "from there"
)


@dataclass(frozen=True)
class Collection:
    """How to collect for one model and one pairs file, at any positions."""

    checkpoint: Checkpoint
    pairs: PromptPairs
    settings: CollectSettings
    store: Path
    again: bool = False
    progress: bool = True
    ranks: Ranks = ALONE

    def collect(self, positions: Positions | None = None) -> RunStore:
        """The run at these positions, by default the settings' own; see `harness.collect`."""
        settings = replace(self.settings, positions=positions or self.settings.positions)
        if settings.positions == "prompt_last":
            # The prompt alone is read: nothing need be written after it.
            settings = replace(settings, max_tokens=0)
        return collect(
            self.checkpoint,
            self.pairs,
            settings,
            self.store,
            again=self.again,
            progress=self.progress,
            ranks=self.ranks,
        )

    def companions(self, asked: Sequence[Positions] = ()) -> dict[str, RunStore]:
        """Runs at other positions: those asked for, and beside generated tokens always the two
        that hold the words constant."""
        names = list(asked)
        if self.settings.positions == "generated":
            names += [n for n in ("forced", "prompt_last") if n not in names]
        return {name: self.collect(name) for name in names}


def analyze(
    model: str | os.PathLike[str] = EMBEDDED_MODEL,
    pairs: str | os.PathLike[str] | PromptPairs = EMBEDDED_PAIRS,
    *,
    revision: str | None = None,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] = ("mlp_out",),
    positions: Positions = "generated",
    companions: Sequence[Positions] = (),
    max_tokens: int = 20,
    chat: bool = True,
    tensor_parallel: int = 1,
    base_model: str | os.PathLike[str] | None = None,
    settings: AnalysisSettings | None = None,
    store: str | os.PathLike[str] = STORE,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Analysis:
    """Collect a model's activations, or take them from the store, and estimate the separation.

    The same as `pytest artifact_checks` with the options of these names, without the checks.

    Args:
        model, revision: checkpoint folder, or `owner/name` on the hub.
        pairs: a prompt pairs file, or pairs that were loaded already.
        layers: all by default.
        companions: other positions to estimate the separation at, too; beside generated tokens
            always those that hold the words constant.
        tensor_parallel: read the run that so many processes collected, who held the model
            together.
        base_model: what the model is compared with, on the same pairs.
        settings: replicates, level, seed of the statistics.
        store: where activations are kept.
        progress: wraps the iteration over layers and sites, for example `tqdm`.

    Raises:
        gemma_mlx.CheckpointError, gemma_mlx.RequestError, harness.data.pairs.PairsError,
        harness.data.store.StoreError, harness.data.activations.AnalysisError
    """
    settings = settings or AnalysisSettings()
    loaded = pairs if isinstance(pairs, PromptPairs) else load_pairs(pairs)
    checkpoint = gemma_mlx.find_checkpoint(model, revision=revision)
    every = range(checkpoint.config.num_hidden_layers)
    collection = Collection(
        checkpoint,
        loaded,
        CollectSettings(
            sites=tuple(sites),
            layers=tuple(every if layers is None else sorted(layers)),
            positions=positions,
            max_tokens=max_tokens,
            chat=chat,
            tensor_parallel=tensor_parallel,
        ),
        Path(store),
    )
    run = collection.collect()
    base = None
    if base_model is not None:
        base = replace(collection, checkpoint=gemma_mlx.find_checkpoint(base_model)).collect()
    facts: dict[str, Any] = provenance(
        str(model), revision, checkpoint, loaded, collection.settings, settings
    )
    return analyze_run(
        run,
        loaded,
        layers=collection.settings.layers,
        sites=collection.settings.sites,
        settings=settings,
        companions=collection.companions(companions),
        base=base,
        provenance={**facts, **origin(run)},
        progress=progress,
    )
