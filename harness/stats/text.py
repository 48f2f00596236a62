"""Features of the text alone: what separates the arms without looking at the model.

Each function gives one layer of features for `separation` and `compare`, so that a
model's d stands beside the d that the words or their number give by themselves.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain

import numpy as np

from harness.stats.arrays import FloatArray

Texts = Sequence[Sequence[Hashable]]


def bag_of_tokens(artifact: Texts, natural: Texts) -> tuple[FloatArray, FloatArray]:
    """Relative frequency of every token in every text.

    Rows sum to one. The expected share of a token does not depend on how long the text is, as
    counts and unit-length vectors would, so length does not leak in.

    Args:
        artifact, natural: per pair, the tokens of the prompt or of the response (ids or words).

    Returns:
        Two float64 arrays `(1, pairs, vocabulary)`; the vocabulary is every token of either arm, in
        order of first appearance. An empty text is a row of zeros.

    Raises:
        ValueError: the arms have different numbers of texts, or no text has any token.
    """
    _check_texts(artifact, natural)
    tokens = dict.fromkeys(chain.from_iterable((*artifact, *natural)))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if not vocabulary:
        raise ValueError("artifact and natural hold no tokens at all")
    return _frequencies(artifact, vocabulary), _frequencies(natural, vocabulary)


def text_lengths(artifact: Texts, natural: Texts) -> tuple[FloatArray, FloatArray]:
    """Number of tokens of every text, as a single feature.

    Equal lengths do not mean equal pairs: pass `collapse_duplicates=False` on.

    Args:
        artifact, natural: per pair, the tokens of the prompt or of the response.

    Returns:
        Two float64 arrays `(1, pairs, 1)`, in tokens.

    Raises:
        ValueError: the arms have different numbers of texts.
    """
    _check_texts(artifact, natural)
    a, b = (
        np.array([[len(text)] for text in arm], dtype=np.float64) for arm in (artifact, natural)
    )
    return a[None], b[None]


def _check_texts(artifact: Texts, natural: Texts) -> None:
    if len(artifact) != len(natural):
        raise ValueError(
            f"artifact and natural must hold one text per pair: {len(artifact)} and {len(natural)}"
        )


def _frequencies(texts: Texts, vocabulary: dict[Hashable, int]) -> FloatArray:
    shares = np.zeros((1, len(texts), len(vocabulary)))
    for row, text in zip(shares[0], texts, strict=True):
        for token in text:
            row[vocabulary[token]] += 1 / len(text)
    return shares
