"""Read given continuations, and read them again under interventions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gemma_mlx.cache import BatchCache
from gemma_mlx.errors import RequestError
from gemma_mlx.generation import chain, left_pad
from gemma_mlx.loading import Gemma
from gemma_mlx.models.gemma import Intervention
from gemma_mlx.request import Request
from gemma_mlx.system.backend import mx


@dataclass(frozen=True)
class Reading:
    """One batch of prompts with continuations, read as far as `layer`.

    The layers from there on are computed at each call, under the interventions that are on then:
    trying many interventions at one layer costs only the layers above it.

    Attributes:
        gemma: the model.
        layer: the first layer that each call computes.
        continuations: token ids, per row.
    """

    gemma: Gemma
    layer: int
    continuations: Sequence[Sequence[int]]
    _padding: Sequence[int]
    _stream: mx.array
    _below: Sequence[Intervention]

    def log_probs(self) -> list[np.ndarray]:
        """Log-probabilities, in nats, of every token at every step.

        Returns:
            Per row float32 (steps, vocab): row t is the distribution that continuation token t
            is drawn from.

        Raises:
            RequestError: an intervention below `layer` came or went since the reading began.
        """
        logits = self._logits()
        return self._rows(logits - mx.logsumexp(logits, axis=-1, keepdims=True))

    def token_log_probs(self) -> list[np.ndarray]:
        """Log-probabilities, in nats, of the continuations' own tokens: per row float32 (steps,).

        Raises:
            RequestError: as `log_probs`.
        """
        logits = self._logits()
        tokens, _ = left_pad(self.continuations)
        own = mx.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
        return self._rows(own - mx.logsumexp(logits, axis=-1))

    def _rows(self, steps: mx.array) -> list[np.ndarray]:
        """Of left-padded steps, each row's own."""
        whole = np.array(steps)
        return [row[-len(c) :] for row, c in zip(whole, self.continuations, strict=True)]

    def _logits(self) -> mx.array:
        """(rows, steps of the longest continuation, vocab)."""
        if _below(self.gemma, self.layer) != self._below:
            raise RequestError(f"interventions below layer {self.layer} changed after the reading")
        columns = self._stream.shape[1]
        cache = BatchCache(self.gemma.config, padding=self._padding, capacity=columns)
        cache.columns.advance(columns)
        model, last = self.gemma.model, max(map(len, self.continuations)) + 1
        hook = chain(self.gemma)
        stream = model.run_blocks(self._stream, cache, hook, first=self.layer, last=last)
        # The last column predicts what comes after the row.
        return model.logits(model.model.norm(stream)[:, -last:-1])


def read_continuations(
    gemma: Gemma,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    *,
    layer: int = 0,
) -> Reading:
    """Read one batch of prompts, each with its continuation, as far as `layer`.

    Args:
        prompts, continuations: token ids, one of each per row.
        layer: the layers before this one are computed once, now, under the interventions that
            are on now.

    Raises:
        RequestError: nothing to read in a row, more than the model's context, or no such layer.
    """
    request = Request(
        prompts, layers=(layer,), sites=(), positions="forced", continuation=continuations
    )
    request.check(gemma.config)
    if not all(map(len, continuations)):
        raise RequestError("a continuation has no tokens")
    tokens, padding = left_pad([request.tokens(i) for i in range(len(prompts))])
    cache = BatchCache(gemma.config, padding=padding, capacity=tokens.shape[1])
    cache.columns.advance(tokens.shape[1])
    model = gemma.model
    stream = model.run_blocks(model.embed(tokens), cache, chain(gemma), until=layer)
    mx.eval(stream)
    return Reading(gemma, layer, continuations, padding, stream, _below(gemma, layer))


def _below(gemma: Gemma, layer: int) -> list[Intervention]:
    return [each for each in gemma.interventions if each.layer < layer]
