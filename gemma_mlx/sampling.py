"""Choosing the next token, for each row with random numbers of its own.

The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p.
"""

from collections.abc import Sequence

import numpy as np

from gemma_mlx.request import Sampling
from gemma_mlx.system.backend import mx


class Sampler:
    """Chooses one token per row and step for one batch.

    Args:
        sampling: how.
        prompts: token ids of each row, which the repetition penalty counts.
        seeds: of each row's random numbers, so that it doesn't depend on the rest of the batch.
        vocab: the number of tokens there are.
    """

    def __init__(
        self, sampling: Sampling, prompts: Sequence[Sequence[int]], seeds: Sequence[int], vocab: int
    ):
        self._how = sampling
        self._seen: mx.array | None = None
        if sampling.repetition_penalty != 1.0:
            seen = np.zeros((len(prompts), vocab), dtype=bool)
            for row, tokens in enumerate(prompts):
                seen[row, list(tokens)] = True
            self._seen = mx.array(seen)
        self._vocab = mx.arange(vocab)
        if sampling.temperature > 0:
            self._keys = mx.stack([mx.random.key(seed) for seed in seeds])

    def __call__(self, logits: mx.array) -> mx.array:
        """Next tokens (batch,), int32, from float32 logits (batch, vocab)."""
        if self._seen is not None:
            penalty = self._how.repetition_penalty
            penalised = mx.where(logits > 0, logits / penalty, logits * penalty)
            logits = mx.where(self._seen, penalised, logits)
        if self._how.temperature == 0:
            tokens = mx.argmax(logits, axis=-1)
        else:
            keys = mx.vmap(lambda key: mx.random.split(key, 2))(self._keys)
            self._keys = keys[:, 0]
            # The largest becomes 0: divided by a low temperature, two could be infinite.
            logits = logits - logits.max(axis=-1, keepdims=True)
            logits = self._truncate(logits / self._how.temperature)
            tokens = mx.vmap(lambda key, row: mx.random.categorical(row, key=key))(
                keys[:, 1], logits
            )
        if self._seen is not None:
            self._seen = self._seen | (self._vocab[None] == tokens[:, None])
        return tokens.astype(mx.int32)

    def _truncate(self, logits: mx.array) -> mx.array:
        """The logits with −∞ for tokens that top-k, top-p or min-p leave out."""
        how = self._how
        low = mx.array(-mx.inf, logits.dtype)
        if 0 < how.top_k < logits.shape[-1]:
            kth = mx.sort(logits, axis=-1)[:, -how.top_k, None]
            logits = mx.where(logits < kth, low, logits)
        if how.top_p < 1:
            order = mx.argsort(-logits, axis=-1)
            sorted_p = mx.softmax(mx.take_along_axis(logits, order, axis=-1), axis=-1)
            before = mx.cumsum(sorted_p, axis=-1) - sorted_p
            kept = mx.put_along_axis(
                mx.zeros_like(before), order, (before < how.top_p).astype(before.dtype), axis=-1
            )
            logits = mx.where(kept > 0, logits, low)
        if how.min_p > 0:
            p = mx.softmax(logits, axis=-1)
            logits = mx.where(p < how.min_p * p.max(axis=-1, keepdims=True), low, logits)
        return logits
