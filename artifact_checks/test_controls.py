"""Is it the words, or the model? Checks of what else could make a layer separate."""

import pytest

from harness.analysis import Analysis, LayerResult
from harness.analysis.verdict import (
    beyond_base,
    beyond_text,
    companion_separates,
    crosses_categories,
    shuffled_labels,
)
from harness.plugin import needs
from harness.settings import Criteria


def test_shuffled_labels(layer_result: LayerResult) -> None:
    shuffled_labels(layer_result).require()


def test_category_transfer(layer_result: LayerResult) -> None:
    crosses_categories(layer_result).require()


@needs("companions")
def test_positions(layer_result: LayerResult, companion: str, criteria: Criteria) -> None:
    companion_separates(layer_result, companion, criteria).require()


@needs("text_baselines")
@pytest.mark.parametrize(
    "text", ["prompt_words", "prompt_length", "response_words", "response_length"]
)
def test_text_baseline(layer_result: LayerResult, text: str, analysis: Analysis) -> None:
    beyond_text(layer_result, text, analysis.text).require()


@needs("base")
def test_beyond_base(layer_result: LayerResult) -> None:
    beyond_base(layer_result).require()
