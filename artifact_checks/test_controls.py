"""Is it the words, the categories or the topic, or the model? And does it go with what it does?

Checks of what else could make a layer separate.
"""

from harness.analysis import Analysis, LayerResult
from harness.analysis.judges import (
    beyond_base,
    companion_separates,
    crosses_categories,
    follows_behaviour,
    same_words,
)
from harness.plugin import needs, require
from harness.settings import Criteria


def test_category_transfer(layer_result: LayerResult, criteria: Criteria) -> None:
    require(crosses_categories(layer_result, criteria))


@needs("words_differ")
def test_same_words(layer_result: LayerResult, criteria: Criteria) -> None:
    same_words(layer_result, criteria).require()


@needs("words_differ")
def test_behaviour(layer_result: LayerResult, analysis: Analysis, criteria: Criteria) -> None:
    require(follows_behaviour(layer_result, analysis.behaviour, criteria))


@needs("companions")
def test_positions(layer_result: LayerResult, companion: str, criteria: Criteria) -> None:
    companion_separates(layer_result, companion, criteria).require()


@needs("base")
def test_beyond_base(layer_result: LayerResult) -> None:
    beyond_base(layer_result).require()
