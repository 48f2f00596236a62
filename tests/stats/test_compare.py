"""Two measurements of the same pairs."""

import numpy as np
import pytest

from benchmarks.calibration import reference
from harness.stats import compare, separation
from harness.stats.compare import holm
from tests.support.arrays import pairs


def versions(seed=0, n=40, hidden=50, effects=(1.0, 1.0), noise=0.3):
    """Two versions whose activations share most of what varies between pairs."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((2, n, hidden))
    result = []
    for effect in effects:
        own = shared + noise * rng.standard_normal(shared.shape)
        shift = effect / 2 / np.sqrt(hidden)
        result += [own[:1] + shift, own[1:] - shift]
    return result


def refitted_without(artifact, natural, k):
    """d_s of the pairs without k, along directions learnt without it; the scales stay."""
    n = len(artifact)
    delta, middle = artifact - natural, (artifact + natural) / 2
    middle = middle - middle.mean(axis=0)
    everywhere = np.concatenate([artifact, natural]).var(axis=0, ddof=1)
    difference, midpoint = [], []
    for i in range(n):
        if i == k:
            continue
        others = np.delete(np.arange(n), i)
        scale = np.concatenate([artifact[others], natural[others]]).var(axis=0, ddof=1)
        total = delta[[j for j in others if j != k]].sum(axis=0)
        length = np.sqrt((total**2 / everywhere).sum())
        difference.append(total / scale @ delta[i] / length)
        midpoint.append(total / scale @ middle[i] / length)
    return reference.d_s(np.array(difference), np.array(midpoint))


@pytest.mark.parametrize("turned", [False, True])
def test_variance_is_that_of_the_difference(turned):
    data = versions(effects=(0.5, 2.0) if turned else (2.0, 2.0))
    if turned:  # what varies most lies in the way of the effect
        data = [arm + 3 * arm[..., :1] for arm in data]
    (result,) = compare(*data)
    n = 40
    j = 1 - 3 / (4 * (2 * n - 2) - 1)
    scores = [reference.refit(a[0], b[0])[:2] for a, b in (data[:2], data[2:])]
    quadratic = [reference.variances(a[0], b[0])[2] for a, b in (data[:2], data[2:])]
    d = [j * reference.d_s(*s) for s in scores]
    without = np.array(
        [
            reference.d_s(*(np.delete(x, k) for x in scores[1]))
            - reference.d_s(*(np.delete(x, k) for x in scores[0]))
            for k in range(n)
        ]
    )
    v1 = (n - 1) / n * ((without - without.mean()) ** 2).sum()
    v2 = (n - 1) / n * ((quadratic[1] - quadratic[0]) ** 2).sum() / (n * (n - 3))
    refitted = np.array(
        [
            refitted_without(data[2][0], data[3][0], k)
            - refitted_without(data[0][0], data[1][0], k)
            for k in range(n)
        ]
    )
    full = (n - 1) / n * ((refitted - refitted.mean()) ** 2).sum()
    assert (full - 2 * v2 > v1 + v2) == turned, "both cases are there"
    se = j * np.sqrt(max(v1 + v2, full - 2 * v2))
    t = reference.t_quantile(0.95, n)
    assert result.difference == pytest.approx(d[1] - d[0], abs=1e-9)
    assert result.se == pytest.approx(se, rel=1e-9)
    assert result.interval == pytest.approx(
        (result.difference - t * se, result.difference + t * se), abs=1e-9
    )
    t90 = reference.t_quantile(0.9, n)
    assert result.equivalence_interval[1] == pytest.approx(result.difference + t90 * se, abs=1e-9)


def test_the_separations_are_those_of_separation():
    data = versions(effects=(0.5, 2.0))
    (result,) = compare(*data)
    a, b = (separation(*arms, permutations=0, bootstrap=0)[0] for arms in (data[:2], data[2:]))
    assert (result.d_a, result.d_b) == (a.d, b.d)


def test_identical_versions_are_equivalent():
    artifact, natural, *_ = versions()
    (result,) = compare(artifact, natural, artifact, natural)
    assert result.difference == result.se == 0
    assert result.p_value == 1
    assert result.verdict == "equivalent"
    assert not result.detectable


def test_versions_apart_are_changed():
    (result,) = compare(*versions(effects=(0.2, 3.5)))
    assert result.verdict == "changed"
    assert result.difference > 1
    assert result.p_value < 0.001
    assert str(result).startswith("changed: d ")


def test_too_little_to_tell_is_inconclusive():
    (result,) = compare(*versions(n=20, noise=2.0), margin=0.1)
    assert result.verdict == "inconclusive"


def test_a_real_change_can_lie_within_the_margin():
    data = versions(effects=(3.0, 3.2), noise=0.001)
    (result,) = compare(*data, margin=0.5)
    assert result.verdict == "equivalent"
    assert result.detectable
    assert "detectable, but within the margin" in str(result)
    (strict,) = compare(*data, margin=0.01)
    assert strict.verdict == "changed"


def test_a_single_layer_is_compared_with_every_layer():
    a, b = (np.stack(arms) for arms in zip(*(pairs(k, effect=k) for k in range(3)), strict=True))
    length = np.random.default_rng(1).integers(5, 20, (2, 1, 30, 1)).astype(float)
    results = compare(*length, a, b)
    assert len(results) == 3
    assert results[0].d_a == results[2].d_a
    assert results[2] == compare(*length, a[2:], b[2:])[0].__class__(
        **{name: getattr(results[2], name) for name in results[2].__dataclass_fields__}
    )
    assert [r.difference for r in compare(a, b, *length)] == [-r.difference for r in results]


def test_duplicates_are_decided_on_both_versions():
    artifact, natural, other_artifact, other_natural = versions()
    artifact[:, 1], natural[:, 1] = artifact[:, 0], natural[:, 0]
    (result,) = compare(artifact, natural, other_artifact, other_natural)
    assert result.n_pairs == 40
    other_artifact[:, 1], other_natural[:, 1] = other_artifact[:, 0], other_natural[:, 0]
    (result,) = compare(artifact, natural, other_artifact, other_natural)
    assert result.n_pairs == 39


def test_an_undefined_version_is_inconclusive():
    artifact, natural, *_ = versions()
    (result,) = compare(natural, natural, artifact, natural)
    assert np.isnan(result.difference)
    assert result.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"margin": 0}, "margin must be positive"), ({"level": 0.5}, "level must lie between 0.5")],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        compare(*versions(), **options)


def test_mismatches_are_named():
    data = versions()
    with pytest.raises(ValueError, match="must hold the same pairs: 40 and 39"):
        compare(*data[:2], *(arm[:, 1:] for arm in data[2:]))
    two, three = ([np.repeat(arm, k, axis=0) for arm in data[:2]] for k in (2, 3))
    with pytest.raises(ValueError, match="same number of layers"):
        compare(*two, *three)
    with pytest.raises(ValueError, match="artifact_b and natural_b must have the same shape"):
        compare(*data[:3], data[3][:, :, 1:])


def test_holm():
    p = np.array([0.04, 0.01, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.06, 0.03, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.9, 0.8])), [1, 1])


def correlated(seed, shift=0.0, layers=12, n=40, hidden=50, noise=0.45):
    """Two versions of a stack of layers; the first layer of the second one is shifted."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((2, layers, n, hidden)) + 0.0
    first[0] += 0.2
    second = first + noise * rng.standard_normal(first.shape)
    second[0, 0] += shift
    return first[0], first[1], second[0], second[1]


@pytest.mark.slow
def test_changed_is_said_over_the_family():
    """Somewhere a layer's own interval excludes zero, by chance; that isn't enough."""
    found = [c for seed in range(12) for c in compare(*correlated(seed), margin=0.01)]
    by_itself = [c for c in found if c.detectable and c.p_adjusted >= 0.05]
    assert by_itself, "the case is there"
    assert {c.verdict for c in by_itself} == {"inconclusive"}
    strong = compare(*correlated(0, shift=0.5), margin=0.01)[0]
    assert strong.p_adjusted < 0.05
    assert strong.verdict == "changed"


@pytest.mark.slow
def test_an_unchanged_model_passes_as_often_as_is_said():
    said, passed = [], []
    for seed in range(80):
        found = compare(*correlated(seed, layers=3, noise=0.4), margin=0.5, bootstrap=500)
        said.append(found[0].unchanged_passes)
        passed.append(all(c.verdict == "equivalent" for c in found))
    assert 0.2 < np.mean(passed) < 0.8, "neither certain nor impossible"
    # An estimate: docs/statistics.md says how far off.
    assert np.mean(said) == pytest.approx(np.mean(passed), abs=0.2)
    (same,) = compare(*(arm[:1] for arm in (*correlated(0)[:2], *correlated(0)[:2])))
    assert same.unchanged_passes == 1
