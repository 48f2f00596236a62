"""What must not matter, and what must follow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from harness.stats import compare, separation
from tests.support.arrays import pairs

FIGURES = (
    "d",
    "d_se",
    "d_s",
    "d_z",
    "accuracy",
    "paired_accuracy",
    "auroc",
    "p_value",
    "p_adjusted",
    "null_mean",
    "null_quantile_95",
)
INTERVALS = ("d_interval", "analytic_interval", "accuracy_interval")

seeds = st.integers(0, 10_000)
sizes = st.integers(20, 40)
widths = st.integers(2, 60)
effects = st.floats(0, 3)
few = settings(max_examples=25, deadline=None)


def measure(artifact, natural, **options):
    (result,) = separation(artifact[None], natural[None], permutations=99, bootstrap=50, **options)
    return result


def assert_same(one, other):
    for name in (*FIGURES, *INTERVALS):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-8, abs=1e-9), name


@few
@given(seeds, sizes, widths, effects)
def test_units_and_offsets_of_dimensions_do_not_matter(seed, n, hidden, effect):
    artifact, natural = pairs(seed, n, hidden, effect)
    rng = np.random.default_rng(seed)
    unit = np.exp(rng.uniform(-5, 5, hidden)) * rng.choice([-1, 1], hidden)
    offset = rng.normal(0, 100, hidden)
    assert_same(
        measure(artifact, natural), measure(artifact * unit + offset, natural * unit + offset)
    )


@few
@given(seeds, sizes, widths, effects)
def test_rotation_does_not_matter_to_raw(seed, n, hidden, effect):
    artifact, natural = pairs(seed, n, hidden, effect)
    rotation = ortho_group.rvs(hidden, random_state=seed)
    assert_same(
        measure(artifact, natural, scale="raw"),
        measure(artifact @ rotation, natural @ rotation, scale="raw"),
    )


@few
@given(seeds, sizes, widths, effects)
def test_swapping_the_labels_mirrors_the_scores(seed, n, hidden, effect):
    """The direction turns with the labels: d stays, and each score becomes its mirror image."""
    artifact, natural = pairs(seed, n, hidden, effect)
    one, other = measure(artifact, natural), measure(natural, artifact)
    assert_same(one, other)
    np.testing.assert_allclose(
        other.scores_artifact, np.negative(one.scores_natural), rtol=1e-8, atol=1e-9
    )


@few
@given(seeds, sizes, widths, effects)
def test_order_of_pairs_does_not_matter_to_the_estimates(seed, n, hidden, effect):
    artifact, natural = pairs(seed, n, hidden, effect)
    order = np.random.default_rng(seed).permutation(n)
    one, other = measure(artifact, natural), measure(artifact[order], natural[order])
    for name in ("d", "d_se", "d_z", "accuracy", "paired_accuracy", "auroc"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9), name
    assert one.analytic_interval == pytest.approx(other.analytic_interval, abs=1e-9)
    assert one.accuracy_interval == pytest.approx(other.accuracy_interval, abs=1e-9)


@pytest.mark.slow
@few
@given(seeds, sizes, widths, effects)
def test_exchanging_the_versions_mirrors_the_comparison(seed, n, hidden, effect):
    artifact, natural = pairs(seed, n, hidden, effect)
    noise = np.random.default_rng(seed).normal(0, 0.3, artifact.shape)
    a, b = (artifact[None], natural[None]), (artifact[None] + noise, natural[None])
    (forth,), (back,) = compare(*a, *b), compare(*b, *a)
    assert forth.difference == pytest.approx(-back.difference, abs=1e-9)
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=1e-9)
    assert forth.p_value == pytest.approx(back.p_value, abs=1e-9)
    assert forth.verdict == back.verdict


@few
@given(seeds, sizes, st.sampled_from([np.float16, np.float32, np.float64]))
def test_only_the_values_matter_not_the_dtype(seed, n, dtype):
    artifact, natural = (arm.astype(dtype) for arm in pairs(seed, n, 10, 1.0))
    wide = measure(artifact.astype(np.float64), natural.astype(np.float64))
    assert measure(artifact, natural) == wide


@few
@given(seeds, sizes, widths, effects)
def test_figures_stay_in_their_ranges(seed, n, hidden, effect):
    result = measure(*pairs(seed, n, hidden, effect))
    low, high = result.accuracy_interval
    assert 0 <= low <= result.accuracy <= high <= 1
    assert result.d_interval[0] < result.d < result.d_interval[1]
    assert 0 <= result.auroc <= 1
    assert 1 / 99 <= result.p_value <= result.p_adjusted <= 1
