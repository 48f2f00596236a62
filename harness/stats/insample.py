"""In-sample figures, as the original project computes them.

They score the very vectors that the direction was learnt from, with prompts × tokens pooled as if
all were independent, and are large on pure noise. They are here to stand beside the held-out
figures, never instead of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.arrays import FloatArray


@dataclass(frozen=True, slots=True)
class InSampleSeparation:
    """Pooled in-sample figures of one layer.

    Attributes:
        d: Cohen's d of all token vectors along the difference of their two means.
        accuracy: share of the same vectors on their own side of the midpoint.
        seed_ratio: the original project's figure, ‖mean difference‖ over the root of the mean
            per-dimension standard deviation. Not an effect size: it grows by 10 if the
            activations are multiplied by 100.
        n_vectors: token vectors pooled, both arms together.
    """

    d: float
    accuracy: float
    seed_ratio: float
    n_vectors: int


TokenArrays = NDArray[np.floating] | Sequence[NDArray[np.floating]]


def in_sample_separation(artifact: TokenArrays, natural: TokenArrays) -> InSampleSeparation:
    """Pool all tokens, learn the direction and score on the same vectors.

    Args:
        artifact, natural: one layer's activations: `(pairs, tokens, hidden)`, or per pair
            `(tokens_i, hidden)` arrays. The arms need not have equal numbers of tokens.

    Raises:
        ValueError: wrong shapes, differing widths, fewer than two vectors in an arm, NaN or
            infinity.
    """
    a, b = _pooled("artifact", artifact), _pooled("natural", natural)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"artifact and natural must have the same width: {a.shape[1]} and {b.shape[1]}"
        )
    gap = a.mean(axis=0) - b.mean(axis=0)
    midpoint = (a.mean(axis=0) + b.mean(axis=0)) / 2
    score_a, score_b = (a - midpoint) @ gap, (b - midpoint) @ gap
    pooled = (len(a) - 1) * score_a.var(ddof=1) + (len(b) - 1) * score_b.var(ddof=1)
    spread = np.sqrt(pooled / (len(a) + len(b) - 2))
    right = (0.5 + np.sign(score_a) / 2).sum() + (0.5 - np.sign(score_b) / 2).sum()
    size = np.linalg.norm(gap)
    with np.errstate(divide="ignore", invalid="ignore"):
        return InSampleSeparation(
            d=float((score_a.mean() - score_b.mean()) / spread),
            accuracy=float(right / (len(a) + len(b))),
            seed_ratio=float(size / np.sqrt((a.std(axis=0).mean() + b.std(axis=0).mean()) / 2)),
            n_vectors=len(a) + len(b),
        )


def _pooled(name: str, values: TokenArrays) -> FloatArray:
    """All token vectors of one arm, `(vectors, hidden)` float64."""
    wanted = f"{name} must be (pairs, tokens, hidden), or one (tokens, hidden) array per pair"
    prompts = [np.asarray(prompt) for prompt in values]
    for pair, prompt in enumerate(prompts):
        if prompt.ndim != 2 or prompt.shape[1] != prompts[0].shape[1]:
            raise ValueError(f"{wanted} of equal width; pair {pair} has shape {prompt.shape}")
        if not np.isfinite(prompt).all():
            raise ValueError(f"{name} holds NaN or infinity in pair {pair}")
    if sum(map(len, prompts)) < 2:
        raise ValueError(f"{wanted}, with two vectors or more")
    return np.concatenate(prompts).astype(np.float64)
