"""Kernels and flips against the method written out."""

import numpy as np
import pytest

from benchmarks.calibration.reference import d_s, flipped, refit
from harness.stats import fold_directions, in_sample_separation, separation
from harness.stats.kernels import kernels
from harness.stats.linalg import product
from harness.stats.resample import Flipper, sign_flips
from tests.support.arrays import pairs


def relative_error(value, expected):
    return np.max(np.abs(value - expected)) / np.max(np.abs(expected))


def with_massive_dimension(artifact, natural):
    for arm in (artifact, natural):
        arm[:, 0] = arm[:, 0] * 500 + 3000
    return artifact, natural


def with_spike(artifact, natural):
    artifact[3, 2] = 1e9
    return artifact, natural


def with_dead_dimensions(artifact, natural):
    for arm in (artifact, natural):
        arm[:, 1] = 0.1
        arm[:, 2] = 5 + 1e-9 * arm[:, 2]
    artifact[4, 1] = 7.0  # dead only while pair 4 is held out
    return artifact, natural


def unchanged(artifact, natural):
    return artifact, natural


@pytest.mark.parametrize(
    ("spoil", "scale"),
    [
        (unchanged, "sd"),
        (unchanged, "raw"),
        (with_massive_dimension, "sd"),
        (with_massive_dimension, "raw"),
        (with_spike, "sd"),
        (with_dead_dimensions, "sd"),
    ],
)
@pytest.mark.parametrize(("n", "hidden"), [(12, 200), (40, 7)], ids=["wide", "tall"])
def test_equals_explicit_refit(n, hidden, spoil, scale):
    artifact, natural = spoil(*pairs(1, n, hidden, effect=1.0))
    signs = sign_flips(n, 20, np.random.default_rng(2))
    held = Flipper(kernels(artifact, natural, scale=scale)).held_out(signs)
    for replicate, pattern in enumerate(signs):
        difference, midpoint, norm = refit(*flipped(artifact, natural, pattern), scale)
        assert relative_error(held.norm[replicate], norm) <= 1e-9
        assert relative_error(held.difference[replicate], difference) <= 1e-9
        assert relative_error(held.midpoint[replicate], midpoint) <= 1e-9
        ours = d_s(held.difference[replicate], held.midpoint[replicate])
        assert abs(ours - d_s(difference, midpoint)) <= 1e-9


def test_spike_leaves_the_other_pairs_scores_exact():
    """Where the spiked pair is held out its variance must not come from cancelled sums."""
    artifact, natural = with_spike(*pairs(5, 20, 30, effect=1.0))
    held = Flipper(kernels(artifact, natural)).observed()
    difference, midpoint, norm = refit(artifact, natural)
    for ours, theirs in zip(
        (held.difference, held.midpoint, held.norm), (difference, midpoint, norm), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", ["sd", "raw"])
def test_a_pairs_own_direction_does_not_know_the_pair(scale):
    artifact, natural = pairs(3, 12, 20)
    before = fold_directions(artifact, natural, scale=scale)
    artifact[5] += 100.0
    natural[5] -= 30.0
    after = fold_directions(artifact, natural, scale=scale)
    np.testing.assert_allclose(after[5], before[5], rtol=1e-10)
    assert np.abs(after - before).max(axis=1).argmin() == 5


def test_pure_noise_gives_nothing_held_out_and_much_in_sample():
    held_out, in_sample = [], []
    for seed in range(60):
        artifact, natural = pairs(seed, 30, 300)
        (result,) = separation(artifact[None], natural[None], permutations=0, bootstrap=0)
        held_out.append(result.d)
        in_sample.append(in_sample_separation(artifact[:, None], natural[:, None]).d)
    error = np.std(held_out, ddof=1) / np.sqrt(len(held_out))
    assert abs(np.mean(held_out)) < 5 * error
    assert min(in_sample) > 3


def test_directions_point_from_natural_to_artifact():
    artifact, natural = pairs(4, 30, 40, effect=4.0)
    assert (fold_directions(artifact, natural) @ np.ones(40) > 0).all()
    (result,) = separation(artifact[None], natural[None], permutations=200, bootstrap=0)
    assert result.d > 2
    assert result.accuracy > 0.9
    assert result.auroc > 0.95
    assert result.p_value == 1 / 200
    assert np.mean(result.scores_artifact) > 0 > np.mean(result.scores_natural)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 499, 1000, 5000])
@pytest.mark.parametrize("n", [15, 50, 131])
def test_no_chunk_size_changes_a_bit(n, chunk):
    flipper = Flipper(kernels(*pairs(n, n, 80, effect=1.0)))
    signs = sign_flips(n, 1001, np.random.default_rng(0))
    for ours, expected in zip(
        flipper.null(signs, chunk=chunk), flipper.null(signs, chunk=500), strict=True
    ):
        assert (ours == expected).all()


def test_signed_sums_do_not_depend_on_their_order():
    """Why chunks and BLAS cannot matter: every signed sum of a kernel row is exact."""
    layer = kernels(*pairs(9, 61, 30))
    signs = sign_flips(61, 200, np.random.default_rng(0)).astype(float)
    for kernel in (layer.difference, layer.midpoint, layer.gram.products):
        one_by_one = sum(np.outer(signs[:, j], kernel[:, j]) for j in reversed(range(61)))
        assert (signs @ kernel.T == one_by_one).all()


@pytest.mark.parametrize("rows", [0, 1, 69, 70, 500])
@pytest.mark.parametrize("shared", [1, 50, 400])
def test_tiled_products_are_products(rows, shared):
    a, b = np.random.default_rng(0).standard_normal((rows, shared)), np.ones((shared, 150))
    np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-12, atol=1e-12)


def test_same_seed_same_bits():
    artifact, natural = (np.stack([arm, arm**3]) for arm in pairs(6, 24, 30, effect=1.0))
    settings = {"permutations": 700, "bootstrap": 300}
    first = separation(artifact, natural, seed=3, **settings)
    assert first == separation(artifact, natural, seed=3, **settings)
    assert first != separation(artifact, natural, seed=4, **settings)


def test_observed_is_the_first_flip():
    flipper = Flipper(kernels(*pairs(7)))
    held = flipper.observed()
    d_z, d, *_ = flipper.null(sign_flips(30, 50, np.random.default_rng(0)))
    assert d_z[0] == held.difference.mean() / held.difference.std(ddof=1)
    assert d[0] == pytest.approx(d_s(held.difference, held.midpoint), rel=1e-14)


def test_few_pairs_are_enumerated():
    signs = sign_flips(8, 128, np.random.default_rng(0))
    assert signs.shape == (128, 8)
    assert len({tuple(row * row[0]) for row in signs}) == 128
    assert (signs[0] == 1).all()
    assert sign_flips(8, 127, np.random.default_rng(0)).shape == (127, 8)


def test_family_is_all_layers_of_the_call():
    artifact, natural = (np.stack([arm, -arm, arm**3, arm[::-1]]) for arm in pairs(8, effect=0.8))
    results = separation(artifact, natural, permutations=2000, bootstrap=0)
    assert all(r.p_adjusted >= r.p_value for r in results)
    assert results[0].p_value == results[1].p_value  # a reflected layer is the same test
    assert 1 <= results[0].effective_layers <= 4
    (alone,) = separation(artifact[:1], natural[:1], permutations=2000, bootstrap=0)
    assert alone.p_adjusted == alone.p_value == results[0].p_value
    assert alone.effective_layers == 1
