"""Every pattern of flips, each with all directions fitted anew."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from tests.stats.reference.scores import Array, Labels, d_z, held_out

Layers = Sequence[tuple[Array, Array]]


def statistics(layers: Layers, flipped: Labels, folds: Labels, direction: str = "mean") -> Array:
    """`(layers, patterns)`: d_z for all patterns of labels, the data's own first.

    Pairs with equal labels in `flipped` swap their arms together.
    """
    units = list(dict.fromkeys(flipped))
    columns = []
    # A pattern and its opposite agree.
    for rest in product([False, True], repeat=len(units) - 1):
        swapped = dict(zip(units, (False, *rest), strict=True))
        swap = np.array([swapped[label] for label in flipped])[:, None]
        columns.append(
            [
                d_z(
                    held_out(
                        np.where(swap, b, a), np.where(swap, a, b), folds, direction
                    ).difference
                )
                for a, b in layers
            ]
        )
    return np.array(columns).T


def p_values(statistics: Array) -> tuple[list[float], list[float]]:
    """Per layer: one-sided p by itself, and over the family by the largest statistic."""
    layers, patterns = statistics.shape
    alone, family = [], []
    for layer in range(layers):
        own = statistics[layer, 0] - 1e-12
        alone.append(sum(statistics[layer, b] >= own for b in range(patterns)) / patterns)
        family.append(sum(max(statistics[:, b]) >= own for b in range(patterns)) / patterns)
    return alone, family
