"""The verdict in sentences, for page and terminal."""

import math

import numpy as np

from harness.analysis.comparison import VersionComparison
from harness.analysis.findings import Findings
from harness.analysis.layers import layer_id
from harness.analysis.verdict import CLOSE
from harness.analysis.words import decimal, interval
from harness.stats import smallest_detectable_effect

# Layers that a sentence names before it says "…".
_MOST_NAMED = 8


def headline(found: Findings) -> str:
    """The run's verdict in one sentence with its numbers."""
    total = len(found)
    outcomes = [found.outcome(key) for key in found]
    passed = outcomes.count("passed")
    ds = [result.separation.d for result in found.values()]
    defined = [d for d in ds if not np.isnan(d)]
    if not defined:
        span = "is not defined"
    elif total == 1:
        span = f"is {decimal(defined[0])}"
    else:
        span = f"runs from {decimal(min(defined))} to {decimal(max(defined))}"
    pairs = next(iter(found.values())).separation.n_pairs
    what = "layer" if len({site for _, site in found}) == 1 else "layer and site"
    undecided = outcomes.count("inconclusive")
    tail = f", {undecided} inconclusive" if undecided else ""
    return (
        f"{passed} of {total} {what}{'s separate' if total > 1 else ' separates'} artifact from "
        "natural prompts beyond "
        f"d = {found.criteria.d_threshold:g}{tail}; held-out d {span} on {pairs} pairs."
    )


def power_sentence(found: Findings) -> str:
    """What this run could have seen, had it been there."""
    first = next(iter(found.values())).separation
    layers = first.effective_layers if math.isfinite(first.effective_layers) else len(found)
    d = smallest_detectable_effect(first.n_pairs, layers=layers, alpha=found.criteria.alpha)
    return (
        f"With {first.n_pairs} pairs and these layers, a true d of {decimal(d)} or more is "
        "told from 0 in 4 runs of 5."
    )


def close_sentence(found: Findings) -> str:
    """Which verdicts another seed could turn, in one sentence; empty if none."""
    close = [
        f"{layer_id(*key)} ({', '.join(names)})"
        for key, verdicts in found.verdicts().items()
        if (names := [name for name, verdict in verdicts.items() if verdict.close])
    ]
    if not close:
        return ""
    shown = ", ".join(close[:_MOST_NAMED]) + (", …" if len(close) > _MOST_NAMED else "")
    return (
        f"Within {CLOSE} Monte Carlo errors of a threshold: {shown}. Another --stats-seed could "
        "give another verdict there; more --replicates settle it."
    )


def comparison_headline(compared: VersionComparison) -> str:
    """What changed from the baseline, in one sentence."""
    found = [layer.comparison for layer in compared.layers.values()]
    counts = [
        f"{sum(c.verdict == verdict for c in found)} {verdict}"
        for verdict in ("equivalent", "changed", "inconclusive")
    ]
    largest = max(found, key=lambda c: -1 if math.isnan(c.difference) else abs(c.difference))
    sets = "".join(
        f" {word}: {', '.join(ids)}."
        for word, ids in (("Pass now", compared.gained), ("Pass no more", compared.lost))
        if ids
    )
    return (
        f"Against {compared.a}, of {len(found)} layers {', '.join(counts)} within "
        f"±{compared.margin:g}; largest change of d {largest.difference:+.2f} "
        f"{interval(largest.interval)}.{sets}{_category_sentence(compared)}"
    )


def _category_sentence(compared: VersionComparison) -> str:
    """The category that changed most, if there are several."""
    mean = {
        category: float(np.mean(list(changes.values())))
        for category, changes in compared.categories.items()
        if changes
    }
    if len(mean) < 2:
        return ""
    most = max(mean, key=lambda category: abs(mean[category]))
    return f" Of the categories, {most} changed most: {mean[most]:+.2f} on average over layers."
