"""The second direction, held against the formula written out."""

import numpy as np
import pytest

from harness.stats import compare, fold_directions, leave_one_category_out, separation, step_curve
from harness.stats.clusters import Clusters
from harness.stats.kernels import SHRINKAGE, kernels
from harness.stats.resample import Flipper, sign_flips
from tests.support.arrays import pairs

N = 24
LABELS = [i // 2 if i < 12 else i for i in range(N)]


def written_out(artifact, natural, learnt_from):
    """w = D^-½ ((1 − λ)R + λI)⁻¹ D^-½ Σδ of these pairs, D and R of both arms' prompts."""
    prompts = np.concatenate([artifact[learnt_from], natural[learnt_from]])
    scale = 1 / prompts.std(axis=0, ddof=1)
    correlations = np.corrcoef(prompts.T)
    matrix = (1 - SHRINKAGE) * correlations + SHRINKAGE * np.eye(len(scale))
    delta = (artifact - natural)[learnt_from].sum(axis=0)
    return scale * (np.linalg.inv(matrix) @ (scale * delta))


@pytest.mark.parametrize("labels", [None, LABELS], ids=["pairs", "clusters"])
@pytest.mark.parametrize("width", [15, 80], ids=["narrow", "wide"])
def test_directions_and_flipped_scores_are_those_of_the_formula(width, labels):
    artifact, natural = pairs(3, N, width, effect=1.0)
    artifact[:, 1] += 2 * artifact[:, 0]  # dimensions that vary together
    folds = Clusters.from_labels(labels, N)
    signs = sign_flips(len(folds), 20, np.random.default_rng(0))[:, folds.of]
    held = Flipper(kernels(artifact, natural, direction="shrinkage", folds=folds)).held_out(signs)
    for row, flips in enumerate(signs):
        swap = flips[:, None] < 0
        a, b = np.where(swap, natural, artifact), np.where(swap, artifact, natural)
        middle = (a + b) / 2 - ((a + b) / 2).mean(axis=0)
        for pair in range(N):
            along = written_out(a, b, np.flatnonzero(folds.of != folds.of[pair]))
            length = np.sqrt(held.norm[row, pair])
            np.testing.assert_allclose(
                [held.difference[row, pair], held.midpoint[row, pair]],
                [along @ (a - b)[pair] / length, along @ middle[pair] / length],
                rtol=1e-9,
                atol=1e-10,
            )
    found = fold_directions(artifact, natural, direction="shrinkage", clusters=labels)
    expected = [written_out(artifact, natural, np.flatnonzero(folds.of != f)) for f in folds.of]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(found).max())


def test_dimensions_that_never_vary_change_nothing():
    artifact, natural = pairs(5, N, 30, effect=1.0)
    wider = [np.concatenate([arm, np.full((N, 3), 7.0)], axis=1) for arm in (artifact, natural)]
    how = {"direction": "shrinkage", "permutations": 200, "bootstrap": 200}
    (narrow,) = separation(artifact[None], natural[None], **how)
    (wide,) = separation(*(arm[None] for arm in wider), **how)
    assert wide.d == pytest.approx(narrow.d, rel=1e-9)
    assert wide.p_value == narrow.p_value


def test_it_finds_what_lies_where_prompts_vary_little():
    """A common component hides the effect from the mean difference alone."""
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((2, 60, 20)) + 3 * rng.standard_normal((2, 60, 1))
    noise[0] += np.where(np.arange(20) < 10, 0.5, -0.5)
    (mean,), (shrunk,) = (
        separation(noise[:1], noise[1:], direction=direction, permutations=0, bootstrap=0)
        for direction in ("mean", "shrinkage")
    )
    assert shrunk.d > mean.d + 0.2


def test_every_estimate_takes_it():
    a, b = pairs(6, N, 30, effect=2.0)
    other, beside = pairs(7, N, 30, effect=1.0)
    categories = [i % 4 for i in range(N)]
    tokens = [np.stack([row] * 3) for row in a], [np.stack([row] * 3) for row in b]
    found = [
        (
            compare(a[None], b[None], other[None], beside[None], direction=direction)[0].difference,
            leave_one_category_out(a[None], b[None], categories, direction=direction)[0][0].d,
            step_curve(*tokens, permutations=10, direction=direction)[0].d,
        )
        for direction in ("mean", "shrinkage")
    ]
    assert all(one != other for one, other in zip(*found, strict=True))
    (whole,) = separation(a[None], b[None], direction="shrinkage", permutations=0, bootstrap=0)
    assert found[1][2] == pytest.approx(whole.d, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"direction": "ridge"}, "direction must be 'mean' or 'shrinkage', not 'ridge'"),
        ({"direction": "shrinkage", "scale": "raw"}, "'shrinkage' needs scale 'sd'"),
    ],
)
def test_what_does_not_exist_is_refused(settings, said):
    artifact, natural = pairs(1, N, 10)
    with pytest.raises(ValueError, match=said):
        separation(artifact[None], natural[None], **settings)
