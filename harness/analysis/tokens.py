"""Where in each response the separation sits: each token's place along the direction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from harness.data.activations import LayerSite, Run, token_arms
from harness.data.pairs import CONDITIONS, Pair
from harness.data.store import Response
from harness.settings import AnalysisSettings
from harness.stats import token_scores


@dataclass(frozen=True)
class TokenScores:
    """Every token of the scored pairs along its pair's held-out direction, as
    `harness.stats.token_scores` gives it.

    All tokens stand in one row: of each pair the natural prompt's, then the artifact prompt's.

    Attributes:
        pairs: in the order of `Analysis.scored`.
        lengths: int (pairs, 2): how many tokens the natural and the artifact prompt have. As many
            as both have count for the prompts' scores.
        texts: what each token reads; empty where no tokenizer or no answer is known.
        scores: float32 (tokens,) by layer and site, on the scale of `Separation.scores_natural`.
    """

    pairs: tuple[Pair, ...]
    lengths: np.ndarray
    texts: tuple[str, ...]
    scores: Mapping[LayerSite, np.ndarray]

    @property
    def ends(self) -> np.ndarray:
        """Int (pairs, 2): where each prompt's tokens end in the row."""
        return self.lengths.ravel().cumsum().reshape(-1, 2)


def measure_tokens(
    run: Run,
    pairs: Sequence[Pair],
    clusters: Sequence[int],
    keys: Sequence[LayerSite],
    responses: Mapping[str, Response],
    settings: AnalysisSettings,
    decode: Callable[[int], str] | None,
) -> TokenScores:
    """Score the tokens of these pairs at each layer and site.

    Args:
        clusters: a label of each pair, as in `separation`.
        decode: the text of a token id.
    """
    scores: dict[LayerSite, np.ndarray] = {}
    lengths = np.zeros((0, 2), dtype=int)
    for layer, site in keys:
        artifact, natural = token_scores(
            *token_arms(run, pairs, site, layer),
            scale=settings.scale,
            direction=settings.direction,
            clusters=clusters,
        )
        both = list(zip(natural, artifact, strict=True))
        lengths = np.array([[len(one), len(other)] for one, other in both])
        scores[layer, site] = np.concatenate([np.concatenate(p) for p in both]).astype(np.float32)
    text_of = None if decode is None else cache(decode)
    texts: list[str] = []
    for pair, counts in zip(pairs, lengths.tolist(), strict=True):
        for condition, count in zip(CONDITIONS, counts, strict=True):
            ids = responses[pair.group(condition)].token_ids
            known = text_of is not None and len(ids) == count
            texts += map(text_of, ids) if text_of and known else [""] * count
    return TokenScores(tuple(pairs), lengths, tuple(texts), scores)
