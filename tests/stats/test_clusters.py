"""Pairs that belong together: held out, flipped and resampled as one."""

import numpy as np
import pytest

from benchmarks.calibration import claims
from benchmarks.calibration.populations import gaussian
from benchmarks.calibration.reference import d_s, flipped, refit
from harness.stats import (
    compare,
    direction_drift,
    fold_directions,
    leave_one_category_out,
    pair_quality,
    separation,
    step_curve,
)
from harness.stats.clusters import Clusters
from harness.stats.intervals import expand, refitted_influence
from harness.stats.kernels import halves, inverse_variances, kernels
from harness.stats.resample import Flipper, sign_flips
from tests.support.arrays import pairs

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")

LABELS = [0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11, 12, 13, 14]
CATEGORIES = ["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["d"] * 4 + ["e"] * 4
N = len(LABELS)


@pytest.mark.parametrize("folds", [LABELS, CATEGORIES], ids=["clusters", "categories"])
@pytest.mark.parametrize("hidden", [60, 7], ids=["wide", "tall"])
@pytest.mark.parametrize("scale", ["sd", "raw"])
def test_equals_explicit_refit(folds, hidden, scale):
    artifact, natural = pairs(4, N, hidden, effect=1.0)
    partition = Clusters.from_labels(folds, N)
    signs = sign_flips(N, 12, np.random.default_rng(2))
    held = Flipper(kernels(artifact, natural, scale=scale, folds=partition)).held_out(signs)
    for replicate, pattern in enumerate(signs):
        expected = refit(*flipped(artifact, natural, pattern), scale, folds)
        ours = held.difference[replicate], held.midpoint[replicate], held.norm[replicate]
        for mine, theirs in zip(ours, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def test_scores_are_centred_on_the_training_pairs():
    artifact, natural = pairs(6, N, 30, effect=1.0)
    folds = Clusters.from_labels(LABELS, N)
    held = Flipper(kernels(artifact, natural, folds=folds)).observed()
    found = held.scores(folds)
    directions = fold_directions(artifact, natural, clusters=LABELS)
    directions /= np.sqrt(held.norm)[:, None]
    for i in range(N):
        others = [j for j in range(N) if LABELS[j] != LABELS[i]]
        centre = (artifact[others] + natural[others]).mean(axis=0) / 2
        for arm, scores in zip((artifact, natural), found, strict=True):
            assert scores[i] == pytest.approx(directions[i] @ (arm[i] - centre))


def test_the_linear_part_is_the_jackknife_over_clusters():
    artifact, natural = pairs(8, N, 30, effect=1.0)
    units = Clusters.from_labels(LABELS, N)
    layer = kernels(artifact, natural, folds=units)
    held = Flipper(layer).observed()
    labels = np.array(LABELS)
    without = np.array(
        [
            d_s(held.difference[labels != c], held.midpoint[labels != c])
            for c in dict.fromkeys(LABELS)
        ]
    )
    g = len(without)
    v1 = (g - 1) / g * ((without - without.mean()) ** 2).sum()
    assert expand(held, layer.gram, units).first_order == pytest.approx(v1, rel=1e-10)


@pytest.mark.parametrize("folds", [LABELS, CATEGORIES], ids=["clusters", "categories"])
def test_what_all_pairs_share_is_no_dependence_between_units(folds):
    """The products between units, less n_d α_c + n_c α_d by weighted least squares."""
    artifact, natural = pairs(9, N, 30, effect=2.0)
    units, partition = Clusters.from_labels(LABELS, N), Clusters.from_labels(folds, N)
    layer = kernels(artifact, natural, folds=partition)
    held = Flipper(layer).observed()
    found = expand(held, layer.gram, units).quadratic
    sums = units.totals(units.totals(layer.gram.products).T)
    fold = [folds[LABELS.index(c)] for c in range(len(units))]
    rows, targets, places = [], [], []
    for c in range(len(units)):
        for d in range(len(units)):
            if fold[c] != fold[d]:
                weight = 1 / np.sqrt(units.sizes[c] * units.sizes[d])
                row = np.zeros(len(units))
                row[c] += units.sizes[d] * weight
                row[d] += units.sizes[c] * weight
                rows.append(row)
                targets.append(sums[c, d] * weight)
                places.append((c, d, weight))
            else:
                assert found[c, d] == 0
    alpha = np.linalg.lstsq(np.array(rows), np.array(targets), rcond=None)[0]
    left = np.array(targets) - np.array(rows) @ alpha
    ours = np.array([found[c, d] * weight for c, d, weight in places])
    ratio = ours @ left / (left @ left)
    np.testing.assert_allclose(ours, ratio * left, atol=1e-9)


ALONE = list(range(100, 100 + N))


@pytest.mark.parametrize(
    "measure",
    [
        lambda a, b, how: separation(a, b, permutations=200, bootstrap=200, **how),
        lambda a, b, how: compare(a, b, b + 0.3 * a, b, **how),
        lambda a, b, how: pair_quality(a, b, **how),
        lambda a, b, how: direction_drift(a, b, a + 0.1 * b, b, **how),
        lambda a, b, how: leave_one_category_out(a, b, CATEGORIES, **how),
        lambda a, b, how: step_curve(list(a[0][:, None]), list(b[0][:, None]), **how),
        lambda a, b, how: fold_directions(a[0], b[0], **how).tolist(),
    ],
    ids=["separation", "compare", "quality", "drift", "categories", "steps", "directions"],
)
def test_single_pairs_change_nothing_and_clusters_do(measure):
    arms = [arm[None] for arm in pairs(3, N, 25, effect=3.0)]
    plain = measure(*arms, {})
    assert measure(*arms, {"clusters": ALONE}) == plain
    assert measure(*arms, {"clusters": LABELS}) != plain


def test_units_are_counted():
    arms = [arm[None] for arm in pairs(3, N, 25)]
    (found,) = separation(*arms, permutations=50_000, bootstrap=0, clusters=LABELS)
    assert (found.n_pairs, found.n_units) == (20, 15)
    # 2^14 flips of whole clusters are all there are.
    assert found.p_se == 0
    assert found.p_value >= 2.0**-14


def test_whole_folds_are_swapped():
    artifact, natural = (arm[None] for arm in pairs(3, N, 25, effect=3.0))
    (found,) = separation(artifact, natural, permutations=200, bootstrap=0, folds=CATEGORIES)
    assert found.p_folds == 1 / 16
    (plain,) = separation(artifact, natural, permutations=200, bootstrap=0)
    assert plain.p_folds is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"clusters": [0] * 20}, "1 clusters of 20 distinct pairs are too few"),
        ({"clusters": [0] * 10 + list(range(10))}, "one cluster holds 11 of the 20 pairs"),
        ({"clusters": [0, 1]}, "one label is needed for each of 20 pairs, not 2"),
        ({"folds": ["a"] * 10 + ["b"] * 10}, "one fold holds 10 of the 20 pairs"),
        ({"folds": CATEGORIES, "clusters": [*range(19), 0]}, "must not divide a cluster"),
    ],
)
def test_labels_that_make_no_sense(how, message):
    arms = [arm[None] for arm in pairs(3, N, 25)]
    with pytest.raises(ValueError, match=message):
        separation(*arms, permutations=50, bootstrap=0, **how)


@pytest.mark.slow
@pytest.mark.parametrize("kind", claims.DEPENDENT)
def test_error_rates_of_dependent_pairs(kind):
    """In small; the page of calibration has all of it."""
    runs = claims.clusters(kind, gaussian(), 100)
    assert runs.figure("type-I error").value <= 0.12
    assert runs.figure("type-I error, as if independent").value >= 0.4
    assert runs.figure("interval of d holds 0").value >= 0.88


@pytest.mark.slow
def test_error_rates_of_bounds_and_categories():
    bounds = claims.bounds(gaussian(), 0.8, 24)
    assert bounds.figure("some bound of d above its truth").value <= 0.15
    assert bounds.figure("some interval of d").value >= 0.08
    alarms = claims.across(gaussian(), 0.3, 0.0, 2, 50)
    assert alarms.figure("claim in some layer").value <= 0.14
    assert alarms.figure("flips of pairs alone").value >= 0.15


def test_influence_with_refitted_directions_leaves_whole_clusters_out():
    artifact, natural = pairs(4, N, 30, effect=1.0)
    units = Clusters.from_labels(LABELS, N)
    delta, middle = halves(artifact, natural)
    weights = inverse_variances(delta, middle, "sd", units)
    middle = middle - middle.mean(axis=0)
    without = []
    for left_out in range(len(units)):
        difference, midpoint = [], []
        for pair in np.flatnonzero(units.of != left_out):
            fold = units.of[pair]
            total = delta[(units.of != fold) & (units.of != left_out)].sum(axis=0)
            along = total * weights.fold[fold] / np.sqrt((total**2 * weights.overall).sum())
            difference.append(along @ delta[pair])
            midpoint.append(along @ middle[pair])
        without.append(d_s(np.array(difference), np.array(midpoint)))
    expected = np.sqrt((len(units) - 1) / len(units)) * (np.mean(without) - without)
    found = refitted_influence(kernels(artifact, natural, folds=units), units)
    np.testing.assert_allclose(found, expected, atol=1e-12)
