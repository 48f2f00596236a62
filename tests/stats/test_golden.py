"""Values fixed once, from an independent implementation."""

import numpy as np
import pytest

from harness.stats import separation

GOLDEN = [
    {
        "seed": 2026,
        "n": 30,
        "hidden": 200,
        "effect": 0,
        "d": 0.163994,
        "d_se": 0.297382,
        "d_interval": (-0.444220, 0.772208),
        "accuracy": 0.516667,
        "accuracy_interval": (0.323221, 0.705243),
        "d_z": 0.158228,
    },
    {
        "seed": 2026,
        "n": 30,
        "hidden": 200,
        "effect": 3,
        "d": 2.012205,
        "d_se": 0.343246,
        "d_interval": (1.310187, 2.714222),
        "accuracy": 0.833333,
        "accuracy_interval": (0.683992, 0.920320),
        "d_z": 1.609241,
    },
    {
        "seed": 7,
        "n": 12,
        "hidden": 40,
        "effect": 2,
        "d": 0.779103,
        "d_se": 0.751366,
        "d_interval": (-0.874642, 2.432849),
        "accuracy": 0.625,
        "accuracy_interval": (0.309398, 0.861115),
        "d_z": 0.474019,
    },
]


@pytest.mark.filterwarnings("ignore:only 12 pairs")
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"n{case['n']}-effect{case['effect']}")
def test_golden_values(case):
    n, hidden, effect = case["n"], case["hidden"], case["effect"]
    rng = np.random.default_rng(case["seed"])
    artifact = rng.standard_normal((n, hidden))
    natural = rng.standard_normal((n, hidden))
    artifact += effect / 2 / np.sqrt(hidden)
    natural -= effect / 2 / np.sqrt(hidden)
    for arm in (artifact, natural):
        arm[:, 0] = arm[:, 0] * 500 + 3000  # a massive dimension

    (result,) = separation(artifact[None], natural[None], permutations=0, bootstrap=0)

    for figure in ("d", "d_se", "d_interval", "accuracy", "accuracy_interval", "d_z"):
        assert getattr(result, figure) == pytest.approx(case[figure], abs=1e-6), figure
