"""Simulated pairs for the tests."""

import numpy as np


def pairs(seed=0, n=30, hidden=60, effect=0.0):
    """Two ``(n, hidden)`` arms whose means lie ``effect`` apart along the diagonal."""
    rng = np.random.default_rng(seed)
    artifact, natural = rng.standard_normal((2, n, hidden))
    shift = effect / 2 / np.sqrt(hidden)
    return artifact + shift, natural - shift
