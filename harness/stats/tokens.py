"""Where in a response the separation sits: every token along its pair's held-out direction."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.defaults import Direction, Scale
from harness.stats.arrays import FloatArray, pair_means
from harness.stats.clusters import Clusters
from harness.stats.kernels import blocks, halves, metric
from harness.stats.resample import SMALL_NORM


def token_scores(
    artifact: Sequence[NDArray[np.floating]],
    natural: Sequence[NDArray[np.floating]],
    *,
    scale: Scale = "sd",
    direction: Direction = "mean",
    clusters: Sequence[Hashable] | None = None,
) -> tuple[list[FloatArray], list[FloatArray]]:
    """Project every token of one layer on the direction that its pair is scored along.

    The direction is learnt from all the other clusters, and the projection is on the scale of
    `Separation.scores_artifact`: w_i·(x − c_i)/√N_i, c_i being the midpoint of the pairs that the
    direction was learnt from. So a prompt's score is the average over the tokens that both arms of
    its pair have. Tokens that one arm has more of are projected, too, and count for nothing.

    Args:
        artifact, natural: per pair, one `(tokens_i, hidden)` array; the arms' numbers of tokens may
            differ.
        scale, direction, clusters: as in `separation`.

    Returns:
        For both arms one float64 `(tokens_i,)` array per pair; zeros where the other pairs give no
        direction.

    Raises:
        ValueError: not the same pairs in both arms, a pair without tokens, unknown `scale` or
            `direction`, or not one label per pair.
    """
    means = pair_means(artifact, natural)
    n, width = means[0].shape
    delta, middle = halves(*means)
    folds = Clusters.from_labels(clusters, n)
    weigh = metric(delta, middle, scale, direction, folds)
    floor = SMALL_NORM * sum(
        float((weigh.together(delta[rows]) * delta[rows]).sum()) for rows in blocks(n, width)
    )
    both = (means[0] + means[1]) / 2
    # Of each fold, what is taken away from the sums over all pairs.
    own_delta, own_both = (
        values if folds.single else folds.totals(values.T).T for values in (delta, both)
    )
    left = n - folds.sizes[folds.of]
    total, total_both = delta.sum(axis=0), both.sum(axis=0)
    scores: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for rows in blocks(n, width):
        pairs = np.arange(n)[rows]
        learnt = total - own_delta[folds.of[pairs]]
        along = weigh.apart(learnt, pairs)
        norm = (weigh.together(learnt) * learnt).sum(axis=1)
        along /= np.sqrt(np.where(norm > floor, norm, np.inf))[:, None]
        centre = (total_both - own_both[folds.of[pairs]]) / left[pairs, None]
        for pair, w, c in zip(pairs.tolist(), along, centre, strict=True):
            for arm, found in zip((artifact, natural), scores, strict=True):
                found.append((np.asarray(arm[pair], dtype=np.float64) - c) @ w)
    return scores
