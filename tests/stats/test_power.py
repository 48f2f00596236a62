"""Planning."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from harness.stats import (
    clearing_effect,
    pairs_needed,
    pairs_to_decide,
    separation,
    smallest_detectable_effect,
    smallest_passing_effect,
)
from tests.support.arrays import pairs


def test_published_values():
    assert smallest_detectable_effect(50) == pytest.approx(4.97 / np.sqrt(50), abs=0.002)
    assert smallest_detectable_effect(50, layers=11) == pytest.approx(6.9 / np.sqrt(50), abs=0.01)


def test_more_pairs_see_less_and_more_layers_need_more():
    assert smallest_detectable_effect(200) == pytest.approx(smallest_detectable_effect(50) / 2)
    assert smallest_detectable_effect(50, layers=26) > smallest_detectable_effect(50)
    assert smallest_detectable_effect(50, power=0.9) > smallest_detectable_effect(50)
    assert smallest_detectable_effect(50, alpha=0.1) < smallest_detectable_effect(50)


@pytest.mark.parametrize("effect", [0.3, 0.7, 1.1])
@pytest.mark.parametrize("layers", [1, 26])
def test_pairs_needed_is_the_inverse(effect, layers):
    n = pairs_needed(effect, layers=layers)
    assert smallest_detectable_effect(n, layers=layers) <= effect
    assert smallest_detectable_effect(n - 1, layers=layers) > effect


@pytest.mark.parametrize(("n", "layers"), [(12, 1), (65, 26)])
def test_a_d_that_passes_lies_that_far_above_the_threshold(n, layers):
    d = smallest_passing_effect(n, threshold=0.8, layers=layers)
    error = np.sqrt(4 / n + d**2 / (4 * n))
    bound = norm.ppf(1 - 0.05 / layers) * t.ppf(0.95, n - 1) / norm.ppf(0.95) * error
    assert norm.cdf((d - bound - 0.8) / error) == pytest.approx(0.8)
    assert smallest_passing_effect(2 * n, threshold=0.8, layers=layers) < d


def test_no_d_clears_more_errors_than_grow_with_it():
    assert clearing_effect(0.8, 5.6, 0.7, 8) < np.inf
    assert clearing_effect(0.8, 5.7, 0.7, 8) == np.inf


def test_never_fewer_than_8_pairs():
    assert pairs_needed(50.0) == 8


@pytest.fixture(scope="module")
def result():
    artifact, natural = pairs(1, effect=1.5)
    return separation(artifact[None], natural[None], permutations=0, bootstrap=500)[0]


def test_pairs_that_would_decide(result):
    # As far below d as the bound is, and as d falls by chance in one sample of five.
    far = result.d - result.d_lower + 0.8416 * result.d_se
    assert pairs_to_decide(result, result.d - far) == pytest.approx(result.n_pairs, abs=1)
    assert pairs_to_decide(result, result.d + far / 2) == pytest.approx(120, abs=1)
    for close in (0, far / 11):
        assert pairs_to_decide(result, result.d - close) == np.inf
    assert pairs_to_decide(replace(result, d=np.nan), 0.5) == np.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: smallest_detectable_effect(7), "n_pairs must be from 8 to 1e\\+18"),
        (lambda: smallest_passing_effect(7, threshold=0.8), "n_pairs must be from 8 to 1e\\+18"),
        (lambda: smallest_passing_effect(50, threshold=0.8, layers=0), "layers must be at least"),
        (lambda: smallest_detectable_effect(10**400), "n_pairs must be from 8 to"),
        (lambda: smallest_detectable_effect(50, layers=0), "layers must be at least 1"),
        (lambda: smallest_detectable_effect(50, power=1), "power and alpha must lie"),
        (lambda: pairs_needed(0.0), "effect must be positive"),
    ],
)
def test_wrong_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
