"""Is it the words, the categories or the topic, or the model?

Checks of what else could make a layer separate.
"""

from harness.analysis import LayerResult
from harness.analysis.verdict import (
    beyond_base,
    companion_separates,
    crosses_categories,
    same_words,
)
from harness.plugin import needs
from harness.settings import Criteria


def test_category_transfer(layer_result: LayerResult, criteria: Criteria) -> None:
    crosses_categories(layer_result, criteria).require()


@needs("words_differ")
def test_same_words(layer_result: LayerResult, criteria: Criteria) -> None:
    same_words(layer_result, criteria).require()


@needs("companions")
def test_positions(layer_result: LayerResult, companion: str, criteria: Criteria) -> None:
    companion_separates(layer_result, companion, criteria).require()


@needs("base")
def test_beyond_base(layer_result: LayerResult) -> None:
    beyond_base(layer_result).require()
