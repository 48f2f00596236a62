"""Pairs that read alike without being near copies: does the verdict hold if they are one unit?"""

import numpy as np
import pytest

from harness.analysis.claims import ladder
from harness.analysis.estimating import analyze
from harness.analysis.judges import alike_pairs, effect_size, significant
from harness.data.clusters import find_clusters
from harness.settings import AnalysisSettings, Criteria
from tests.support.builders import document, noise, parsed, planted, run_of

pytestmark = pytest.mark.filterwarnings("ignore:only .*")
CRITERIA = Criteria(d_threshold=0.5)
FAMILIES, EACH = 9, 3
THINGS = [f"{a}{b}" for a in ("red", "old", "wet", "far") for b in ("barn", "boat", "road", "hill")]


def family(number):
    """Three ways to ask for nearly the same: half of the words are the same in each."""
    asked = f"k{number} l{number} m{number} n{number}"
    return [
        {
            "id": f"f{number}_{way}",
            "natural": f"u{number}{way} v{number}{way}",
            "artifact": f"w{number}{way} {asked} x{number}{way}",
        }
        for way in range(EACH)
    ]


def unlike(number):
    thing = THINGS[number]
    return {"id": f"s{number:02d}", "natural": f"a{thing} b{thing}", "artifact": f"c{thing}"}


def pairs_with_families():
    alike = [entry for number in range(FAMILIES) for entry in family(number)]
    return parsed(document({"one": [*alike, *map(unlike, range(12))]}))


def shared(tokens):
    """`tokens` where the pairs of a family lie apart by the same random vector, each family by
    its own: by chance alone, then."""

    def moved(pair, condition, layer, site):
        values = tokens(pair, condition, layer, site)
        name, _, way = pair.id.partition("_")
        if not way:
            return values
        rng = np.random.default_rng(list(name.encode()))
        sign = 1 if condition == "artifact" else -1
        return values + np.float32(sign * 3) * rng.standard_normal(values.shape[1], np.float32)

    return moved


def analysis_of(tmp_path, tokens, pairs):
    return analyze(
        run_of(tmp_path, pairs, tokens),
        pairs,
        layers=[0],
        sites=["mlp_out"],
        settings=AnalysisSettings(replicates=500),
    )


def test_a_separation_that_comes_of_pairs_that_say_the_same_fails(tmp_path):
    pairs = pairs_with_families()
    assert find_clusters(pairs.pairs).links == ()
    found = analysis_of(tmp_path, shared(noise(1)), pairs)
    result = found[0, "mlp_out"]
    assert effect_size(result, CRITERIA).outcome == "passed"
    assert significant(result, CRITERIA).outcome == "passed"
    verdict = alike_pairs(result, found, CRITERIA)
    assert verdict.outcome != "passed"
    assert result.alike.n_units == FAMILIES + 12
    for part in ("one/f0_0 and one/f0_1, and 26 more", "21 in all", '"cluster" in the pairs file'):
        assert part in verdict.explanation
    assert not ladder(result, CRITERIA, (), found).holds("separates")


def test_one_that_all_pairs_carry_holds(tmp_path):
    found = analysis_of(tmp_path, planted(6, noise(1)), pairs_with_families())
    result = found[0, "mlp_out"]
    assert alike_pairs(result, found, CRITERIA).outcome == "passed"
    assert ladder(result, CRITERIA, (), found).holds("separates")


def test_nothing_is_estimated_again_where_no_pairs_read_alike(tmp_path):
    pairs = parsed(document({"one": list(map(unlike, range(16)))}))
    found = analysis_of(tmp_path, planted(6, noise(1)), pairs)
    assert found[0, "mlp_out"].alike is None
    verdict = alike_pairs(found[0, "mlp_out"], found, CRITERIA)
    assert verdict.outcome == "passed"
    assert "no pairs of different units read alike" in verdict.explanation


def test_too_few_units_to_tell(tmp_path):
    pairs = parsed(document({"one": [entry for n in range(4) for entry in family(n)]}))
    found = analysis_of(tmp_path, planted(6, noise(1)), pairs)
    verdict = alike_pairs(found[0, "mlp_out"], found, CRITERIA)
    assert verdict.outcome == "undecidable"
    assert "4 clusters of 12 distinct pairs are too few" in verdict.explanation
    assert not ladder(found[0, "mlp_out"], CRITERIA, (), found).holds("separates")
