"""Which pairs belong together: units of the statistics, and folds that are held out together."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.defaults import MIN_PAIRS
from harness.stats.arrays import FloatArray, Layers, distinct_pairs

FEW_PAIRS = 20  # below it a warning: intervals are less reliable


@dataclass(frozen=True, slots=True)
class Clusters:
    """A partition of the pairs.

    Attributes:
        of: `(pairs,)`: the number of each pair's cluster, from 0, in order of first appearance.
        sizes: `(clusters,)`: pairs in each.
    """

    of: NDArray[np.intp]
    sizes: NDArray[np.intp]

    @classmethod
    def from_labels(cls, labels: Sequence[Hashable] | None, n_pairs: int) -> Clusters:
        """The pairs with equal labels together; without labels each pair by itself.

        Raises:
            ValueError: not one label per pair.
        """
        if labels is None:
            return cls(np.arange(n_pairs), np.ones(n_pairs, dtype=np.intp))
        if len(labels) != n_pairs:
            raise ValueError(f"one label is needed for each of {n_pairs} pairs, not {len(labels)}")
        number: dict[Hashable, int] = {}
        of = np.array([number.setdefault(label, len(number)) for label in labels], dtype=np.intp)
        return cls(of, np.bincount(of))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def single(self) -> bool:
        """Whether every pair stands by itself."""
        return len(self.sizes) == len(self.of)

    @property
    def same(self) -> NDArray[np.bool_]:
        """`(pairs, pairs)`: whether two pairs belong together."""
        return self.of[:, None] == self.of[None, :]

    def take(self, pairs: NDArray[np.intp]) -> Clusters:
        """The same partition of these pairs alone, renumbered."""
        return Clusters.from_labels(self.of[pairs].tolist(), len(pairs))

    def totals(self, values: FloatArray) -> FloatArray:
        """Sums over each cluster's pairs: `(..., pairs)` → `(..., clusters)`.

        The order of each sum is that of the pairs, so that no other value can change its rounding.
        """
        order = np.argsort(self.of, kind="stable")
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        return np.add.reduceat(values[..., order], starts, axis=-1)

    def sums(self, values: FloatArray) -> FloatArray:
        """Each pair's cluster's sum: `(..., pairs)` → `(..., pairs)`."""
        return values if self.single else self.totals(values)[..., self.of]

    def variance_of_mean(self, values: FloatArray) -> float:
        """Of the mean over pairs, `(pairs,)`, where clusters are what is drawn."""
        return float(self.deviations(values).var(ddof=1) / len(self))

    def deviations(self, values: FloatArray) -> FloatArray:
        """`(clusters,)`: numbers whose mean is that of the pairs' values, and whose variance over
        the clusters is that mean's variance times their number."""
        mean = values.mean()
        excess = self.totals(values) - (self.sizes - 1) * mean
        return mean + (excess - mean) * (len(self) / len(self.of)) if not self.single else values

    def check_shares(self, what: str) -> None:
        """Raise `ValueError` where one of these holds half of the pairs or more: too little is
        left to hold it against."""
        if 2 * self.sizes.max() >= len(self.of) > 1:
            raise ValueError(
                f"one {what} holds {self.sizes.max()} of the {len(self.of)} pairs; fewer than half "
                "are needed"
            )

    def contain(self, other: Clusters) -> bool:
        """Whether each of the other's clusters lies within one of these."""
        joint = Clusters.from_labels(
            list(zip(self.of.tolist(), other.of.tolist(), strict=True)), len(self.of)
        )
        return len(joint) == len(other)


def usable_pairs(
    *conditions: Layers, collapse_duplicates: bool, labels: Sequence[Hashable] | None
) -> tuple[NDArray[np.intp], Clusters]:
    """Indices of the pairs to use, and their clusters, after refusing or warning about too few.

    Raises:
        ValueError: not one label per pair, fewer than 8 clusters, or one that holds half of the
            pairs.
    """
    clusters = Clusters.from_labels(labels, len(conditions[0][0]))
    pairs = np.arange(len(clusters.of), dtype=np.intp)
    if collapse_duplicates:
        pairs = distinct_pairs(*conditions)
        clusters = clusters.take(pairs)
    units = "distinct pairs" if clusters.single else f"clusters of {len(pairs)} distinct pairs"
    if len(clusters) < MIN_PAIRS:
        raise ValueError(
            f"{len(clusters)} {units} are too few: at least {MIN_PAIRS} are needed, and "
            f"{FEW_PAIRS} before intervals can be trusted"
        )
    clusters.check_shares("cluster")
    if len(clusters) < FEW_PAIRS:
        warnings.warn(
            f"only {len(clusters)} {units.removeprefix('distinct ')}: intervals are less reliable "
            f"below {FEW_PAIRS}",
            UserWarning,
            stacklevel=3,
        )
    return pairs, clusters
