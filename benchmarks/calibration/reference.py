"""The method written out: one refit per pair and flip, one formula per line, no kernels.

Arms are `(n, hidden)`, artifact and natural; scores are `(n,)`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def refit(
    artifact: Array, natural: Array, scale: str = "sd", folds: Sequence[object] | None = None
) -> tuple[Array, Array, Array]:
    """Held-out D, R and N of one layer, each direction fitted from scratch.

    Pairs with equal labels in `folds` are held out together.
    """
    n, hidden = artifact.shape
    folds = range(n) if folds is None else folds
    grand_mean = np.concatenate([artifact, natural]).mean(axis=0)
    variance = np.concatenate([artifact, natural]).var(axis=0, ddof=1)
    alive = variance > 1e-12 * np.median(variance)
    difference, midpoint, norm = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        others = [j for j in range(n) if folds[j] != folds[i]]
        a, b = artifact[others], natural[others]
        train = np.concatenate([a, b]).var(axis=0, ddof=1)
        keep = alive & (train > 1e-12 * np.median(train))
        if scale == "raw":
            keep, train, variance = np.ones(hidden, bool), np.ones(hidden), np.ones(hidden)
        total = (a - b).sum(axis=0)
        w = np.divide(total, train, out=np.zeros(hidden), where=keep)
        inverse = np.divide(1, variance, out=np.zeros(hidden), where=alive | (scale == "raw"))
        norm[i] = (total**2 * inverse).sum()
        difference[i] = w @ (artifact[i] - natural[i]) / np.sqrt(norm[i])
        midpoint[i] = w @ ((artifact[i] + natural[i]) / 2 - grand_mean) / np.sqrt(norm[i])
    return difference, midpoint, norm


def flipped(artifact: Array, natural: Array, signs: NDArray[np.int8]) -> tuple[Array, Array]:
    """The two arms after swapping the labels of the pairs whose sign is negative."""
    swap = (signs < 0)[:, None]
    return np.where(swap, natural, artifact), np.where(swap, artifact, natural)


def d_s(difference: Array, midpoint: Array) -> float:
    """Standardised mean difference, without the small-sample correction."""
    spread = np.sqrt(midpoint.var(ddof=1) + difference.var(ddof=1) / 4)
    return float(difference.mean() / spread)


def variances(artifact: Array, natural: Array) -> tuple[float, float, Array]:
    """v1 and v2 as in the formulas, with loops where the code has none, and the quadratic form."""
    difference, midpoint, norm = refit(artifact, natural)
    n = len(difference)
    without = np.array([d_s(np.delete(difference, k), np.delete(midpoint, k)) for k in range(n)])
    v1 = (n - 1) / n * ((without - without.mean()) ** 2).sum()
    scaled = (artifact - natural) / np.concatenate([artifact, natural]).std(axis=0, ddof=1)
    gram = scaled @ scaled.T
    np.fill_diagonal(gram, 0)
    rows, total = gram.sum(axis=1), gram.sum()
    centred = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                centred[i, j] = (
                    gram[i, j] - rows[i] / (n - 2) - rows[j] / (n - 2) + total / ((n - 1) * (n - 2))
                )
    spread = midpoint.var(ddof=1) + difference.var(ddof=1) / 4
    v2 = (n - 1) / n * (centred**2).sum() / (n * (n - 3)) * (1 / norm).mean() / spread
    return v1, v2, centred * np.sqrt((1 / norm).mean() / spread)


def wilson(p: float, n: float, t: float) -> tuple[float, float]:
    """Wilson's interval of a share p of n."""
    centre = (p + t**2 / (2 * n)) / (1 + t**2 / n)
    half = t / (1 + t**2 / n) * np.sqrt(p * (1 - p) / n + t**2 / (4 * n**2))
    return centre - half, centre + half


def t_quantile(level: float, n: int) -> float:
    """Quantile of Student's t with n − 1 degrees of freedom for a two-sided interval."""
    return float(stats.t.ppf((1 + level) / 2, n - 1))
