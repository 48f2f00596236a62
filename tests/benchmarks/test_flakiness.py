"""The measurement of verdicts over seeds, in small."""

import math

from benchmarks.flakiness import JUDGES, Found, judged, markdown, with_seeds
from harness.analysis.estimating import analyze
from harness.settings import AnalysisSettings
from tests.support.builders import noise, parsed, planted, run_of, two_categories


def test_flips_are_seeds_that_differ_from_the_commonest():
    found = Found(["passed", "failed", "passed", "inconclusive"], [4.0, 2.5, 9.0, math.inf])
    assert found.flips == 2
    assert str(found) == "passed 2, **2 flips**"
    assert str(Found(["failed"] * 3, [math.inf] * 3)) == "failed"


def test_every_criterion_of_every_layer_is_judged_with_every_seed(tmp_path):
    pairs = parsed(two_categories(24))
    tokens = planted(1.0, noise(3))
    analysis = analyze(
        run_of(tmp_path, pairs, tokens, layers=(0, 3)),
        pairs,
        layers=(0, 3),
        sites=("mlp_out",),
        settings=AnalysisSettings(replicates=100),
    )
    every = with_seeds(analysis, 4)
    table = judged(every)
    assert list(table) == ["layer_0-mlp_out", "layer_3-mlp_out"]
    for row in table.values():
        assert {name: len(found.outcomes) for name, found in row.items()} == dict.fromkeys(
            JUDGES, 4
        )
        assert len(set(row["d"].distances)) == 4, "each seed draws anew"
        assert len(set(row["accuracy"].distances)) > 1
    flips = sum(found.flips for row in table.values() for found in row.values())
    assert f"Of 32 verdicts {flips} differ" in " ".join(markdown({"one": every}).split())
