"""Activations with known effects, straight from arrays, and saved runs made of them."""

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gemma_mlx import Checkpoint
from harness.analysis.behaviour import Behaviour, Rate
from harness.analysis.comparison import SavedRun
from harness.analysis.layers import Analysis
from harness.data.activations import LayerSite, PairActivations
from harness.data.pairs import Condition, Pair
from harness.results import Results
from harness.results.baseline import saved_run
from harness.results.schema import plain
from harness.settings import AnalysisSettings, CollectSettings, Criteria
from harness.stats import Comparison
from tests.support.builders import analysis_of, checkpoint, entry, layer_result

#: What `harness.results.provenance` says of a run, as a results file has it.
PROVENANCE: dict[str, Any] = plain(
    {
        "model": "a/model",
        "revision": None,
        "model_fingerprint": "f" * 64,
        "model_layers": 2,
        "template_fingerprint": "e" * 64,
        "pairs_file": "pairs.json",
        "pairs_version": "1.0",
        "pairs_fingerprint": "d" * 64,
        "collection": asdict(CollectSettings()),
        "analysis": asdict(AnalysisSettings()),
        "packages": {"numpy": "2.0"},
        "python": "3.11.0",
        "blas": "one",
        "device": "cpu",
        "machine": "Linux x86_64, 2 cores",
        "git_commit": None,
        "date": "2030-01-01T00:00:00+00:00",
        "run_key": "c" * 64,
    }
)
FAILED = {"d": 0.1, "d_interval": (-0.4, 0.6), "p_adjusted": 0.7}
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    # The end of a prompt sees its beginning, so that different prompts get different answers.
    "sliding_window": 64,
    "sliding_window_pattern": 2,
}


def tiny_checkpoint(path: Path, **changes: Any) -> Checkpoint:
    """Random weights, two layers, hidden size 16."""
    return checkpoint(path, **{"seed": 1, **TINY, **changes})


def pairs_of(count: int, categories: tuple[str, ...] = ("one", "two")) -> tuple[Pair, ...]:
    """Pairs in turn in each of the categories."""
    return tuple(Pair(categories[n % len(categories)], **entry(n)) for n in range(count))


def measured(
    effects: Mapping[LayerSite, float],
    *,
    pairs: tuple[Pair, ...] = pairs_of(16),
    width: int = 12,
    seed: int = 0,
    axis: int = 0,
) -> PairActivations:
    """Noise of variance 1 at each key, the same for the same seed, with the artifact arm moved by
    the key's effect along `axis`."""
    arms: list[tuple[np.ndarray, np.ndarray]] = []
    for (layer, site), effect in effects.items():
        rng = np.random.default_rng([seed, layer, *site.encode()])
        artifact, natural = rng.standard_normal((2, len(pairs), width))
        artifact[:, axis] += effect
        arms.append((artifact, natural))
    artifacts, naturals = zip(*arms, strict=True)
    return PairActivations(pairs, tuple(effects), artifacts, naturals, tuple(range(len(pairs))))


def facts(changes: Mapping[str, Any]) -> dict[str, Any]:
    """`PROVENANCE` with changes; dots lead into nested objects."""
    made = deepcopy(PROVENANCE)
    for path, value in changes.items():
        *outer, last = path.split(".")
        place = made
        for name in outer:
            place = place[name]
        place[last] = value
    return made


def analysis_from(
    activations: PairActivations,
    *,
    failed: Collection[LayerSite] = (),
    changes: Mapping[str, Any] | None = None,
    **results: Any,
) -> Analysis:
    """An analysis of these activations; all layers pass but those in `failed`, and `results` are
    changes to every layer's separation."""
    n = len(activations.pairs)
    layers = [
        layer_result(*key, **{"n_pairs": n, **results, **(FAILED if key in failed else {})})
        for key in activations.keys
    ]
    provenance = facts(changes or {})
    settings = AnalysisSettings(**provenance["analysis"])
    return analysis_of(*layers, activations=activations, settings=settings, provenance=provenance)


def behaviour_of(
    share: float, fingerprint: str = "f" * 64, source: str = "patterns.json"
) -> Behaviour:
    """A tenth of natural prompts and this share of artifact prompts are evaded."""
    shares: tuple[tuple[Condition, float], ...] = (("natural", 0.1), ("artifact", share))
    rates = tuple(Rate(c, None, 0.0, 0.0, 0.0, each, (0.0, 0.5), 16) for c, each in shares)
    return Behaviour(source, fingerprint, {}, rates)


def version_of(
    name: str,
    activations: PairActivations,
    *,
    failed: Collection[LayerSite] = (),
    changes: Mapping[str, Any] | None = None,
    criteria: Criteria | None = None,
) -> SavedRun:
    """A saved run in memory; `changes` are to its provenance."""
    analysis = analysis_from(activations, failed=failed, changes=changes)
    return saved_run(Path(f"{name}.safetensors"), Results(analysis, criteria or Criteria()))


def change_of(low: float, high: float, **changes: Any) -> Comparison:
    """A change of d with this interval, from 1.25 to as much more."""
    difference = (low + high) / 2
    values: dict[str, Any] = {
        "difference": difference,
        "interval": (low, high),
        "se": (high - low) / 4,
        "equivalence_interval": (low + (high - low) / 12, high - (high - low) / 12),
        "p_value": 0.01,
        "p_adjusted": 0.02,
        "verdict": "changed" if low > 0 or high < 0 else "inconclusive",
        "detectable": low > 0 or high < 0,
        "unchanged_passes": 0.9,
        "d_a": 1.25,
        "d_b": 1.25 + difference,
        "margin": 0.5,
        "n_pairs": 16,
        "n_units": 16,
        "lower": low,
        "lower_se": 0.0,
    }
    return Comparison(**{**values, **changes})
