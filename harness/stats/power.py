"""Planning: what n pairs can show, and how many pairs a question needs.

A mean of n held-out differences has standard error about 2/√n in units of d near the null (twice
the naive variance, see `intervals`), so the smallest effect that a one-sided sign-flip test
finds with the wanted power is 2(z_{1−α/m} + z_power)/√n for m independent layers.
"""

from __future__ import annotations

import math

from scipy.special import ndtri, stdtrit

from harness.defaults import ALPHA, LEVEL, MIN_PAIRS
from harness.stats.separation import Separation

# More pairs than these times what there are is no advice.
_MOST_TIMES = 100.0
# More than anybody has, and what a float can hold.
_MOST_PAIRS = 1e18


def smallest_detectable_effect(
    n_pairs: int, *, layers: float = 1, power: float = 0.8, alpha: float = ALPHA
) -> float:
    """Smallest true held-out d that is found with probability `power`.

    Args:
        n_pairs: number of pairs, at least 8 and at most 1e18.
        layers: effective number of independent layers in the family (`Separation.effective_layers`
            of an earlier run; the plain number of layers is the cautious choice).
        power, alpha: wanted power, and family-wise level of the test.

    Returns:
        d, in standard deviations of the scores.

    Raises:
        ValueError: an argument out of range.
    """
    return _distance(layers, power, alpha) / math.sqrt(_checked(n_pairs))


def smallest_passing_effect(
    n_pairs: int,
    *,
    threshold: float,
    layers: float = 1,
    power: float = 0.8,
    level: float = LEVEL,
) -> float:
    """Smallest true held-out d whose lower bound clears `threshold` with probability `power`.

    Args:
        n_pairs, layers, power: as in `smallest_detectable_effect`.
        level: of the lower bounds, which hold in all layers together.

    Returns:
        d, in standard deviations of the scores.

    Raises:
        ValueError: an argument out of range.
    """
    _check(layers, power, 1 - level)
    wider = float(stdtrit(_checked(n_pairs) - 1, level) / ndtri(level))
    steps = wider * float(ndtri(1 - (1 - level) / layers)) + float(ndtri(power))
    return clearing_effect(threshold, steps, 2 / math.sqrt(n_pairs), n_pairs)


def clearing_effect(threshold: float, steps: float, null_error: float, n_pairs: int) -> float:
    """The d that lies `steps` of its standard errors above `threshold`; infinite where none does.

    Args:
        null_error: standard error of d where there is no effect; a d of x adds x²/(4n) to its
            square.
    """
    # x − threshold = steps · √(null_error² + x²/(4n)), squared and solved for x.
    left = 1 - steps**2 / (4 * n_pairs)
    if left <= 0:
        return math.inf
    root = threshold**2 - left * (threshold**2 - (steps * null_error) ** 2)
    return (threshold + math.sqrt(root)) / left


def pairs_needed(
    effect: float, *, layers: float = 1, power: float = 0.8, alpha: float = ALPHA
) -> int:
    """Fewest pairs with which a true held-out d of `effect` is found.

    The inverse of `smallest_detectable_effect`, with the same parameters; `effect` must
    be positive.
    """
    if not effect > 0:
        raise ValueError(f"effect must be positive, not {effect}")
    return max(MIN_PAIRS, math.ceil((_distance(layers, power, alpha) / effect) ** 2))


def pairs_to_decide(result: Separation, threshold: float, *, power: float = 0.8) -> float:
    """Pairs with which the lower bound of d would clear `threshold` with probability `power`, if d
    is what it seems to be now; where d lies below, those with which it would be shown to.

    Errors shrink as 1/√n, and d varies by one standard error from sample to sample.

    Returns:
        A whole number of pairs as float; infinite where d isn't defined, or so close to the
        threshold that more than 100 times as many pairs as now would be needed.
    """
    gap = abs(result.d - threshold)
    reach = result.d - result.d_lower + float(ndtri(power)) * result.d_se
    if not reach <= gap * math.sqrt(_MOST_TIMES):
        return math.inf
    return float(max(MIN_PAIRS, math.ceil(result.n_pairs * (reach / gap) ** 2)))


def _distance(layers: float, power: float, alpha: float) -> float:
    """Smallest detectable d times √n."""
    _check(layers, power, alpha)
    return 2 * float(ndtri(1 - alpha / layers) + ndtri(power))


def _check(layers: float, power: float, alpha: float) -> None:
    if layers < 1:
        raise ValueError(f"layers must be at least 1, not {layers}")
    if not (0 < power < 1 and 0 < alpha < 1):
        raise ValueError(f"power and alpha must lie between 0 and 1, not {power} and {alpha}")


def _checked(n_pairs: int) -> int:
    if not MIN_PAIRS <= n_pairs <= _MOST_PAIRS:
        raise ValueError(f"n_pairs must be from {MIN_PAIRS} to {_MOST_PAIRS:g}, not {n_pairs}")
    return n_pairs
