"""Lower bounds that hold in all layers together.

The layers share pairs and multipliers, so their bootstrap deviations vary together as the
estimates do. The largest studentised deviation over the layers says how far to step back from
every estimate for no bound to lie above what it bounds (Chernozhukov, Chetverikov & Kato 2013).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri, stdtrit

from harness.stats.arrays import FloatArray
from harness.stats.intervals import Accuracy, Expansion


class Simultaneous:
    """Largest deviations of d and of accuracy over the layers added so far.

    Args:
        multipliers: `(replicates, units)` standard normal, the same for all layers.
    """

    def __init__(self, multipliers: FloatArray) -> None:
        self._multipliers = multipliers
        self._d = np.full(len(multipliers), -np.inf)
        self._accuracy = np.full(len(multipliers), -np.inf)

    def add(self, deviations: FloatArray, expansion: Expansion, accuracy: Accuracy) -> None:
        """One layer, whose d deviates by `deviations` `(replicates,)`; skipped where its d or
        accuracy isn't defined or doesn't vary."""
        if 0 < expansion.variance < np.inf:
            np.maximum(self._d, deviations / np.sqrt(expansion.variance), out=self._d)
        length = float(np.linalg.norm(accuracy.deviations))
        if 0 < length < np.inf:
            drawn = self._multipliers @ (accuracy.deviations / length)
            np.maximum(self._accuracy, drawn, out=self._accuracy)

    def quantiles(self, level: float, n_units: int) -> tuple[float, float]:
        """Standard errors to step back from d and from accuracy, widened from the normal
        distribution to Student's t; NaN without replicates."""
        if not len(self._multipliers):
            return np.nan, np.nan
        wider = float(stdtrit(n_units - 1, level) / ndtri(level))
        d, accuracy = (
            max(float(np.quantile(largest, level)), float(ndtri(level))) * wider
            for largest in (self._d, self._accuracy)
        )
        return d, accuracy
