"""Monte Carlo errors: whether other seeds differ by as much as is said."""

import tracemalloc

import numpy as np
import pytest

from harness.stats import compare, separation, step_curve
from harness.stats.intervals import bootstrap_interval, bootstrap_interval_se
from tests.support.arrays import pairs

SEEDS = range(200)


def over_seeds(*layers, **settings):
    """Results by layer and seed."""
    arms = [np.stack(arm) for arm in zip(*layers, strict=True)]
    return list(zip(*(separation(*arms, seed=seed, **settings) for seed in SEEDS), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_ends_of_the_interval_differ_between_seeds_by_their_error(level):
    settings = {"permutations": 0, "bootstrap": 1000, "level": level}
    (results,) = over_seeds(pairs(1, 30, 60, 1.5), **settings)
    stated = np.mean([r.d_interval_se for r in results])
    for end in zip(*(r.d_interval for r in results), strict=True):
        assert np.std(end) == pytest.approx(stated, rel=0.2)


@pytest.mark.slow
def test_p_values_differ_between_seeds_by_their_error():
    effects = (1.4, 1.0, 0.5)
    layers = [pairs(seed, 24, 40, effect) for seed, effect in enumerate(effects)]
    for results in over_seeds(*layers, permutations=400, bootstrap=0):
        for name in ("p", "p_adjusted"):
            found = [getattr(r, "p_value" if name == "p" else name) for r in results]
            assert 0.02 < np.mean(found) < 0.98, "otherwise there is little to see"
            stated = np.mean([getattr(r, f"{name}_se") for r in results])
            assert np.std(found) == pytest.approx(stated, rel=0.2)


def test_error_of_the_interval_is_that_of_the_quantile():
    """Of uniform deviations the density is 1: f·√(level(1 − level)/B)."""
    deviations = np.random.default_rng(0).permutation(np.linspace(-1, 1, 10_001))
    low, high = bootstrap_interval(0.0, deviations, 12, 0.9)
    widening = (high - low) / 2 / 0.9
    assert bootstrap_interval_se(deviations, 12, 0.9) == pytest.approx(
        widening * np.sqrt(0.9 * 0.1 / 10_001), rel=1e-3
    )


@pytest.mark.parametrize("count", [20, 100])
def test_few_replicates_have_an_error_too(count):
    """Also where two errors above the quantile is beyond the largest of them."""
    deviations = np.random.default_rng(1).standard_normal((400, count))
    stated = [bootstrap_interval_se(row, 30, 0.95) for row in deviations]
    ends = [bootstrap_interval(0.0, row, 30, 0.95)[1] for row in deviations]
    assert 0.5 < np.mean(stated) / np.std(ends) < 2


@pytest.mark.filterwarnings("ignore:only 10 pairs")
def test_nothing_drawn_at_random_has_no_error():
    artifact, natural = (arm[None] for arm in pairs(2, 10, 20, 1.0))
    (result,) = separation(artifact, natural, permutations=512, bootstrap=0)
    assert 0 < result.p_adjusted < 1
    assert (result.p_se, result.p_adjusted_se, result.d_interval_se) == (0, 0, 0)
    (drawn,) = separation(artifact, natural, permutations=511, bootstrap=100)
    assert min(drawn.p_se, drawn.p_adjusted_se, drawn.d_interval_se) > 0
    (untested,) = separation(artifact, natural, permutations=0, bootstrap=0)
    assert np.isnan([untested.p_se, untested.p_adjusted_se]).all()


def test_steps_have_the_errors_of_their_flips():
    artifact, natural = np.random.default_rng(3).standard_normal((2, 20, 4, 12))
    for step in step_curve(list(artifact), list(natural), permutations=250):
        for p, se in ((step.p_value, step.p_se), (step.p_adjusted, step.p_adjusted_se)):
            assert se == pytest.approx(np.sqrt(p * (1 - p) / 250))


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    [
        lambda a, b: separation(a, b, permutations=20, bootstrap=20),
        lambda a, b: compare(a, b, b, a),
        lambda a, b: compare(a[:1], b[:1], b, a),
    ],
    ids=["separation", "compare", "compare with one"],
)
def test_memory_does_not_grow_with_layers(measure):
    """What is as large as the pairs' number squared is held for one layer at a time."""

    def peak(layers):
        arms = np.random.default_rng(0).standard_normal((2, layers, 300, 8))
        tracemalloc.start()
        try:
            measure(*arms)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(12) < 1.15 * peak(3)
