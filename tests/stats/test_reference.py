"""The statistics against a second implementation, written from docs/statistics.md alone."""

import dataclasses

import numpy as np
import pytest

from harness.analysis.causality import Shifts, effects, mixtures
from harness.stats import (
    compare,
    direction_drift,
    following,
    leave_one_category_out,
    rank_test,
    separation,
)
from harness.stats.clusters import Clusters
from tests.stats.reference import categories, flips, layers, ranks, versions
from tests.stats.reference import following as behaviour

pytestmark = pytest.mark.filterwarnings("ignore:only .* (pairs|clusters)")

N = 14
LABELS = [0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 8]
CATEGORIES = list("aaaabbccddeeee")  # a cluster lies within one of them
ALONE = list(range(N))
REPLICATES = 150
DIRECTIONS = ["mean", "shrinkage"]
WIDTHS = pytest.mark.parametrize("hidden", [30, 6], ids=["wide", "tall"])


def drawn(seed, n, hidden, depth=2, effect=1.5):
    """Layers of both arms, whose dimensions vary together."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(depth):
        mixing = rng.standard_normal((hidden, hidden)) / np.sqrt(hidden)
        artifact, natural = rng.standard_normal((2, n, hidden)) @ mixing
        found.append((artifact + effect / np.sqrt(hidden), natural))
    return found


def arms(data):
    """As `separation` takes them."""
    return [a for a, _ in data], [b for _, b in data]


def multipliers(seed, units):
    """The numbers that a call with this seed draws."""
    return np.random.default_rng(seed).standard_normal((REPLICATES, units))


BOOTSTRAP_SEED = np.random.SeedSequence(0).spawn(2)[1]


def agree(found, expected):
    """Whatever the reference has, each to 1e-9."""
    for ours, theirs in zip(found, expected, strict=True):
        for field in dataclasses.fields(theirs):
            value, wanted = getattr(ours, field.name), getattr(theirs, field.name)
            if not isinstance(wanted, str):
                wanted = pytest.approx(wanted, rel=1e-9, abs=1e-9)
            assert value == wanted, field.name


def repeated(data):
    """Pair 1 again as 3, and 13 as 12, in all layers."""
    for arm in (arm for arms in data for arm in arms):
        arm[3], arm[12] = arm[1], arm[13]


def massive(data):
    """A dimension far larger than the others, one without variance, and a spike."""
    for artifact, natural in data:
        for arm in (artifact, natural):
            arm[:, 0] = 500 * arm[:, 0] + 3000
            arm[:, 1] = 7
        artifact[4, 2] = 1e5


def perfect(data):
    """All pairs on their own side in the first layer: its accuracy does not vary."""
    data[0][0][:] += 20


def measured_twice(data, clusters, folds, direction):
    how = {"permutations": 0, "bootstrap": REPLICATES, "direction": direction}
    found = separation(*arms(data), clusters=clusters, folds=folds, **how)
    pairs = layers.distinct(data)
    assert found[0].pairs == tuple(pairs)
    units = [(clusters or ALONE)[i] for i in pairs]
    held = units if folds is None else [folds[i] for i in pairs]
    distinct = [(a[pairs], b[pairs]) for a, b in data]
    numbers = multipliers(BOOTSTRAP_SEED, len(set(units)))
    agree(found, layers.figures(distinct, units, held, numbers, direction=direction))


@pytest.mark.parametrize(
    ("clusters", "folds"),
    [(None, None), (LABELS, None), (None, CATEGORIES), (LABELS, CATEGORIES)],
    ids=["pairs", "clusters", "categories", "clusters-categories"],
)
@pytest.mark.parametrize("direction", DIRECTIONS)
@WIDTHS
def test_separation(hidden, direction, clusters, folds):
    measured_twice(drawn(1, N, hidden), clusters, folds, direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("spoil", [repeated, massive, perfect])
def test_separation_of_odd_data(spoil, direction):
    data = drawn(2, N, 20)
    spoil(data)
    measured_twice(data, LABELS, CATEGORIES if spoil is repeated else None, direction)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_one_layer_at_another_level(seed):
    data = drawn(seed, N, 20, depth=1, effect=0.3)
    found = separation(
        *arms(data), permutations=0, bootstrap=REPLICATES, level=0.9, clusters=LABELS
    )
    numbers = multipliers(BOOTSTRAP_SEED, len(set(LABELS)))
    agree(found, layers.figures(data, LABELS, LABELS, numbers, level=0.9))


@pytest.mark.parametrize(
    ("hidden", "direction", "folds"),
    [(4, "mean", None), (12, "shrinkage", list("aaabbcdde"))],
    ids=["clusters", "categories"],
)
def test_p_values_of_all_flips(hidden, direction, folds):
    labels = [0, 0, 1, 2, 3, 4, 5, 6, 7]
    data = drawn(6, 9, hidden, effect=1.6)
    found = separation(
        *arms(data),
        permutations=128,
        bootstrap=0,
        clusters=labels,
        folds=folds,
        direction=direction,
    )
    statistics = flips.statistics(data, labels, folds or labels, direction)
    alone, family = flips.p_values(statistics)
    assert [s.p_value for s in found] == alone
    assert [s.p_adjusted for s in found] == family
    whole = [None, None]
    if folds is not None:
        whole = flips.p_values(flips.statistics(data, folds, folds, direction))[1]
    assert [s.p_folds for s in found] == whole


@pytest.mark.parametrize("direction", DIRECTIONS)
@WIDTHS
def test_categories(hidden, direction):
    labels = list("aaaaaabbbbcccccddee")
    units = [0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7, 8, 8, 9, 10, 11, 12, 13]
    units[-1] = 3  # one cluster lies in "b" and "e"
    data = drawn(4, len(units), hidden)
    found = leave_one_category_out(*arms(data), labels, clusters=units, direction=direction)
    assert [t.category for t in found[0]] == ["a", "b", "c"]
    for ours, (artifact, natural) in zip(found, data, strict=True):
        agree(ours, categories.figures(artifact, natural, labels, units, direction=direction))


def later(data, seed, change=0.0):
    """Another version, in which the effect is `change` larger in the first layer."""
    rng = np.random.default_rng(seed)
    found = [tuple(arm + 0.4 * rng.standard_normal(arm.shape) for arm in arms) for arms in data]
    found[0][0][:] += change / np.sqrt(data[0][0].shape[1])
    return found


@pytest.mark.parametrize(
    ("hidden", "direction", "labels", "turned", "margin"),
    [
        (30, "mean", LABELS, False, 0.8),
        (6, "mean", LABELS, False, 1.2),
        (30, "mean", ALONE, True, 2.2),
        (30, "shrinkage", LABELS, True, 3.5),
    ],
)
def test_changes(hidden, direction, labels, turned, margin):
    before = drawn(6, N, hidden, depth=3, effect=0.5 if turned else 2.0)
    after = later(before, 7, 6.0)
    if turned:  # what varies most lies in the way of the effect: the second variance counts
        before, after = (
            [tuple(arm + 3 * arm[:, :1] for arm in arms) for arms in data]
            for data in (before, after)
        )
    how = {"margin": margin, "bootstrap": REPLICATES, "direction": direction, "clusters": labels}
    found = compare(*arms(before), *arms(after), **how)
    numbers = multipliers(0, len(set(labels)))
    agree(found, versions.changes(before, after, labels, numbers, margin, direction=direction))


@pytest.mark.parametrize("labels", [LABELS, ALONE], ids=["clusters", "pairs"])
@WIDTHS
def test_turns(hidden, labels):
    before = drawn(8, N, hidden, depth=3, effect=3.0)
    after = later(before, 9)
    after[1][0][:, : hidden // 2] -= 6 / np.sqrt(hidden)
    expected = versions.turns(before, after, labels)
    agree(direction_drift(*arms(before), *arms(after), clusters=labels), expected)
    # Between the lower ends of 95% and 90%.
    least = expected[0].interval[0] + 1e-6
    found = direction_drift(*arms(before), *arms(after), clusters=labels, least=least)
    agree(found, versions.turns(before, after, labels, least))


@pytest.mark.parametrize("joined", [False, True], ids=["prompts", "clusters"])
def test_following(joined):
    evaded = [True, False] * 6 + [True, False, False, True, True]
    asked = [*"aabbccccdddd", *"abab", "e"]  # of "e" there is one kind only: it says nothing
    units = list(range(17))
    if joined:  # two units that were asked one of "a" and one of "b" each
        units[12:16] = [12, 12, 13, 13]
    kinds = np.array(evaded)
    scores = np.random.default_rng(2).standard_normal((3, 17))
    scores[:2] = np.round(scores[:2] + 0.7 * kinds, 1)  # ties
    scores[2] += 9 * kinds  # all in order: no variance
    used = len(set(units)) - 1
    count = 2 ** (used - 1)  # as many as there would be flips: they are drawn all the same
    found = following(
        list(scores), evaded, asked, clusters=units, permutations=count, bootstrap=REPLICATES
    )
    numbers = multipliers(BOOTSTRAP_SEED, used)
    expected = behaviour.figures(list(scores), evaded, asked, units, numbers)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.auroc == pytest.approx(theirs.auroc, abs=1e-9)
        assert ours.lower == pytest.approx(theirs.lower, abs=1e-9)
        # Of all dealings there, of some at random here.
        for p, exact in ((ours.p_value, theirs.p_value), (ours.p_adjusted, theirs.p_adjusted)):
            assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / count))
        p = ours.p_adjusted
        assert ours.p_se == pytest.approx(np.sqrt(p * (1 - p) / count), abs=1e-12)


@pytest.mark.parametrize("degrees", [7, 60])
def test_rank_test(degrees):
    statistics = np.random.default_rng(degrees).standard_normal((2, 3, 60))
    statistics[1] = np.exp(statistics[1])
    statistics[..., 0] += [[2.5, 0.5, 1.0], [6.0, 1.0, 0.0]]
    for ours, theirs in zip(
        rank_test(statistics, degrees=degrees), ranks.rank_test(statistics, degrees), strict=True
    ):
        np.testing.assert_allclose(ours, theirs)


def test_directions_of_interventions():
    rng = np.random.default_rng(11)
    delta = rng.standard_normal((N, 20)) + 0.3
    signs = rng.choice([-1.0, 1.0], (12, len(set(LABELS))))
    rows = np.array([0, 3, 12])
    found = mixtures(delta, Clusters.from_labels(LABELS, N), signs, rows)
    for ours, row in zip(found, rows, strict=True):
        np.testing.assert_allclose(ours, ranks.directions(delta, LABELS, signs, row), atol=1e-12)


def test_effects_of_interventions():
    rng = np.random.default_rng(12)
    shifts = rng.standard_normal((3, 2, N, 41))
    shifts[0, 0, :, 0] += 1.0
    shifts[1, 1, :, 0] -= 1.0
    found = effects(
        {
            (layer, "mlp_out"): {
                kind: Shifts(shifts[layer, k], np.zeros(3))
                for k, kind in enumerate(("add", "ablate"))
            }
            for layer in range(3)
        },
        Clusters.from_labels(LABELS, N),
        0.95,
        8,
    )
    means = shifts.mean(axis=2).swapaxes(0, 1)
    alone, family = ranks.rank_test(means * [[[1]], [[-1]]], 8)
    for layer in range(3):
        for k, effect in enumerate(found[layer, "mlp_out"]):
            assert (effect.p_value, effect.p_adjusted) == (alone[k, layer], family[k, layer])
            shift, interval = ranks.beyond_random(shifts[layer, k], LABELS, 0.95)
            assert effect.shift == pytest.approx(shift, abs=1e-9)
            assert effect.shift_interval == pytest.approx(interval, abs=1e-9)
