"""Do natural and artifact prompts separate in this layer, on pairs the direction hasn't seen?"""

from harness.analysis import Analysis, LayerResult
from harness.analysis.judges import above_chance, alike_pairs, effect_size, significant
from harness.plugin import require
from harness.settings import Criteria


def test_effect_size(layer_result: LayerResult, criteria: Criteria) -> None:
    effect_size(layer_result, criteria).require()


def test_accuracy(layer_result: LayerResult, criteria: Criteria) -> None:
    above_chance(layer_result, criteria).require()


def test_significance(layer_result: LayerResult, criteria: Criteria) -> None:
    significant(layer_result, criteria).require()


def test_alike_pairs(layer_result: LayerResult, analysis: Analysis, criteria: Criteria) -> None:
    require(alike_pairs(layer_result, analysis, criteria))
