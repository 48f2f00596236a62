"""Scores against behaviour, held against the definition."""

import numpy as np
import pytest

from harness.stats import TooFewError, following

N = 60
CATEGORIES = [i % 5 for i in range(N)]
HOW = {"permutations": 400, "bootstrap": 400}


def by_hand(scores, evaded, categories):
    """Mean over categories that hold both kinds of the share of pairs in the right order."""
    found = []
    for category in dict.fromkeys(categories):
        one, other = (
            [
                s
                for s, e, c in zip(scores, evaded, categories, strict=True)
                if c == category and e == k
            ]
            for k in (True, False)
        )
        if one and other:
            found.append(np.mean([(a > b) + 0.5 * (a == b) for a in one for b in other]))
    return np.mean(found)


def drawn(seed=0, effect=0.0, categories=CATEGORIES):
    rng = np.random.default_rng(seed)
    evaded = rng.random(N) < 0.5
    # A category's own level, which must not count.
    scores = rng.standard_normal((2, N)) + effect * evaded + 3 * np.array(categories)
    return list(np.round(scores, 1)), evaded.tolist()


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_auroc_is_that_of_the_definition(effect):
    scores, evaded = drawn(1, effect)
    for layer, found in zip(scores, following(scores, evaded, CATEGORIES, **HOW), strict=True):
        assert found.auroc == pytest.approx(by_hand(layer, evaded, CATEGORIES), abs=1e-12)
        assert found.n_categories == 5
        assert (found.n_evaded, found.n_answered) == (sum(evaded), N - sum(evaded))
        assert found.lower < found.auroc
        assert len(found.scores_evaded) == found.n_evaded


@pytest.mark.slow
def test_p_is_the_share_of_dealings_that_do_as_well():
    scores, evaded = drawn(2, 0.4)
    (first, _) = following(scores, evaded, CATEGORIES, permutations=4000, bootstrap=10)
    rng = np.random.default_rng(0)
    labels, numbers, as_well = np.array(evaded), np.array(CATEGORIES), 0
    for _ in range(1500):
        for category in range(5):
            here = numbers == category
            labels[here] = rng.permutation(labels[here])
        as_well += by_hand(scores[0], labels, CATEGORIES) >= first.auroc - 1e-9
    assert first.p_value == pytest.approx(as_well / 1500, abs=0.04)
    assert first.p_adjusted >= first.p_value


def test_a_category_of_one_kind_says_nothing():
    scores, evaded = drawn(3, 1.0)
    numbers = np.array(CATEGORIES)
    evaded = np.where(numbers == 0, True, evaded).tolist()
    found = following(scores, evaded, CATEGORIES, **HOW)
    rest = [i for i in range(N) if CATEGORIES[i] != 0]
    alone = following(
        [layer[rest] for layer in scores],
        [evaded[i] for i in rest],
        [CATEGORIES[i] for i in rest],
        **HOW,
    )
    assert found[0].n_categories == 4
    assert [f.auroc for f in found] == [f.auroc for f in alone]


def test_behaviour_that_is_nothing_but_the_category_cannot_be_decided():
    scores, _ = drawn(4)
    with pytest.raises(
        TooFewError, match=r"36 artifact prompts were evaded and 24 answered; .* not 0 and 0"
    ):
        following(scores, [c < 3 for c in CATEGORIES], CATEGORIES, **HOW)


def test_complete_separation_keeps_a_width():
    _, evaded = drawn(5)
    (found,) = following([np.array(evaded, dtype=float)], evaded, CATEGORIES, **HOW)
    assert found.auroc == pytest.approx(1)
    assert 0.7 < found.lower < 1


def test_clusters_are_dealt_out_and_counted_whole():
    scores, evaded = drawn(6, 1.0)
    labels = [i // 10 for i in range(N)]  # two prompts of each category in every cluster
    evaded = [label % 2 == 0 for label in labels]
    with pytest.raises(TooFewError):
        following(scores, evaded, CATEGORIES, clusters=labels, **HOW)
    pairs = [i // 2 * 2 for i in range(N)]
    one = following(scores, drawn(6)[1], [0] * N, **HOW)[0]
    other = following(scores, drawn(6)[1], [0] * N, clusters=pairs, **HOW)[0]
    assert one.auroc == other.auroc
    assert other.n_evaded < one.n_evaded


@pytest.mark.slow
def test_false_alarms_over_layers_and_power():
    alarms = finds = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        evaded = (rng.random(N) < 0.5).tolist()
        layers = rng.standard_normal((6, N)) + np.array(CATEGORIES)
        null = following(list(layers), evaded, CATEGORIES, **HOW, seed=seed)
        alarms += any(f.p_adjusted < 0.05 and f.lower > 0.5 for f in null)
        layers[0] += 1.5 * np.array(evaded)
        found = following(list(layers), evaded, CATEGORIES, **HOW, seed=seed)[0]
        finds += found.p_adjusted < 0.05 and found.lower > 0.5
    assert alarms <= 12
    assert finds >= 100


def test_one_value_for_each_prompt():
    with pytest.raises(ValueError, match="one value for each of 60 prompts"):
        following([np.zeros(59)], [True] * N, CATEGORIES)


def test_a_categorys_own_level_changes_nothing():
    scores, evaded = drawn(7, 0.8)
    levels = 100.0 * np.array(CATEGORIES)
    one, other = (
        following([layer + shift for layer in scores], evaded, CATEGORIES, **HOW)
        for shift in (0.0, levels)
    )
    for a, b in zip(one, other, strict=True):
        assert a.lower == pytest.approx(b.lower, abs=1e-9)
        assert a.auroc == pytest.approx(b.auroc, abs=1e-9)
    assert one[0].lower == pytest.approx(one[0].auroc - 0.12, abs=0.08), "neither wide nor nothing"
