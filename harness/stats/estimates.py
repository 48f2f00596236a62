"""Effect sizes from held-out scores. The last axis is pairs; leading axes are replicates."""

from __future__ import annotations

import numpy as np

from harness.stats.arrays import FloatArray


def hedges_correction(n_pairs: int) -> float:
    """J = 1 − 3/(4ν − 1), ν = 2n − 2: removes the small-sample bias of d (Hedges 1981)."""
    return 1 - 3 / (4 * (2 * n_pairs - 2) - 1)


def standardized_difference(difference: FloatArray, midpoint: FloatArray) -> FloatArray:
    """d_s: mean difference over the pooled standard deviation of the two arms' scores.

    The arms score midpoint ± difference/2, so their mean variance is var R + var D/4.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return _moments(difference)[0] / standard_deviation(difference, midpoint)


def standard_deviation(difference: FloatArray, midpoint: FloatArray) -> FloatArray:
    """Pooled standard deviation of the two arms' scores, midpoint ± difference/2."""
    return np.sqrt(_moments(midpoint)[1] + _moments(difference)[1] / 4)


def paired_statistic(difference: FloatArray) -> FloatArray:
    """d_z: mean difference over its standard deviation.

    +∞ where the differences are positive and all alike; −∞ where they are all zero, so that
    a degenerate sample is never evidence.
    """
    mean, variance = _moments(difference)
    spread = np.sqrt(variance)
    alike = spread <= 1e-12 * np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(alike, np.where(mean > 0, np.inf, -np.inf), mean / spread)


def pair_accuracies(scores_artifact: FloatArray, scores_natural: FloatArray) -> FloatArray:
    """Share of each pair's two prompts on their own side of the midpoint, ties one half."""
    return 0.5 + (np.sign(scores_artifact) - np.sign(scores_natural)) / 4


def paired_accuracies(difference: FloatArray) -> FloatArray:
    """Whether each pair's artifact prompt outscores its natural one (2AFC), ties one half."""
    return 0.5 + np.sign(difference) / 2


def auroc(scores_artifact: FloatArray, scores_natural: FloatArray) -> float:
    """Probability that some artifact prompt outscores some natural one (Mann–Whitney)."""
    if np.isnan(scores_artifact).any() or np.isnan(scores_natural).any():
        return np.nan
    natural = np.sort(scores_natural)
    lower, upper = (np.searchsorted(natural, scores_artifact, side) for side in ("left", "right"))
    return float((lower + upper).sum() / 2 / (len(scores_artifact) * len(natural)))


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and variance (ddof 1) along the last axis."""
    n = values.shape[-1]
    mean = values.sum(axis=-1) / n
    deviation = values - mean[..., None]
    return mean, (deviation * deviation).sum(axis=-1) / (n - 1)
