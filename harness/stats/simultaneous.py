"""Lower bounds that hold in all layers together.

The layers share pairs and multipliers, so their bootstrap deviations vary together as the
estimates do. The largest studentised deviation over the layers says how far to step back from
every estimate for no bound to lie above what it bounds (Chernozhukov, Chetverikov & Kato 2013).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri, stdtrit

from harness.stats.arrays import FloatArray
from harness.stats.intervals import quantile_se


class Largest:
    """The largest studentised deviation over the layers added so far, in each replicate.

    Args:
        replicates: of the deviations, which come from the same multipliers in all layers.
    """

    def __init__(self, replicates: int) -> None:
        self._largest = np.full(replicates, -np.inf)

    def add(self, deviations: FloatArray, variance: float) -> None:
        """A layer's `(replicates,)` deviations and their variance; where that isn't defined, or
        zero, the layer has no bound to hold."""
        if 0 < variance < np.inf:
            np.maximum(self._largest, deviations / np.sqrt(variance), out=self._largest)

    def reach(self, level: float, n_units: int) -> tuple[float, float]:
        """Standard errors to step back from each estimate, widened from the normal distribution to
        Student's t, and the Monte Carlo standard error of that number; NaN without replicates."""
        if not len(self._largest):
            return np.nan, np.nan
        single = float(ndtri(level))
        wider = float(stdtrit(n_units - 1, level)) / single
        if not np.isfinite(self._largest).all():
            return single * wider, 0.0
        largest = float(np.quantile(self._largest, level))
        return max(largest, single) * wider, quantile_se(self._largest, level) * wider
