"""Many layers take no more memory than one: arrays that are made on demand, and dropped."""

import weakref
from collections.abc import Sequence

import numpy as np
import pytest

from harness.stats import (
    compare,
    direction_drift,
    distinct_pairs,
    finite_pairs,
    leave_one_category_out,
    pair_quality,
    separation,
)
from harness.stats import kernels as kernels_module
from harness.stats import resample as resample_module

N, WIDTH, DEPTH = 24, 12, 6
HOW = {"permutations": 50, "bootstrap": 50}


class Count:
    """How many arrays are alive, and the most that ever were."""

    now = most = 0

    def born(self, array):
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(array, self.died)

    def died(self):
        self.now -= 1


class Noise(Sequence):
    """Layers of noise that are made when they are asked for."""

    def __init__(self, seed, count):
        self.seed, self.count = seed, count

    def __len__(self):
        return DEPTH

    def __getitem__(self, index):
        if not 0 <= index < DEPTH:
            raise IndexError(index)
        made = np.random.default_rng((self.seed, index)).standard_normal((N, WIDTH))
        self.count.born(made)
        return made


CALLS = {
    "separation": lambda a, b, *_: separation(a, b, **HOW),
    "compare": lambda a, b, c, d: compare(a, b, c, d, bootstrap=50),
    "drift": lambda a, b, c, d: direction_drift(a, b, c, d),
    "transfer": lambda a, b, *_: leave_one_category_out(a, b, [i % 2 for i in range(N)]),
    "quality": lambda a, b, *_: pair_quality(a, b),
    "distinct": lambda *arms: distinct_pairs(*arms).tolist(),
    "finite": lambda *arms: finite_pairs(*arms).tolist(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_one_layer_at_a_time(call):
    count = Count()
    sources = [Noise(seed, count) for seed in range(4)]
    found = call(*sources)
    # One of each source, and the last one of each until the name that it had is given to the next.
    assert count.most <= 2 * len(sources)
    # repr, since NaN isn't equal to itself.
    assert repr(found) == repr(call(*([*source] for source in sources)))


@pytest.mark.parametrize("direction", ["mean", "shrinkage"])
@pytest.mark.parametrize("clusters", [None, [i // 2 if i < 8 else i for i in range(N)]])
def test_blocks_change_nothing(monkeypatch, direction, clusters):
    """However little is worked on at once."""
    arms = [np.stack(list(Noise(seed, Count()))) for seed in range(2)]
    arms[0][:, 3, 2] = 1e9  # variances that are computed again
    how = {**HOW, "direction": direction, "clusters": clusters}
    expected = separation(*arms, **how)
    for module in (kernels_module, resample_module):
        monkeypatch.setattr(module, "BLOCK", 30)
    for ours, theirs in zip(separation(*arms, **how), expected, strict=True):
        for name in ("d", "d_se", "accuracy", "p_value", "p_adjusted", "d_lower", "accuracy_lower"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-9), name
