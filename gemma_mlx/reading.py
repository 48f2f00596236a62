"""Read given continuations, and read them again under interventions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gemma_mlx.cache import BatchCache, ForkedCache
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
        return self._rows(log_probs_of(tokens[..., None], logits))

    def _rows(self, steps: mx.array | np.ndarray) -> list[np.ndarray]:
        """Of left-padded steps, each row's own."""
        whole = np.array(steps)
        return [row[-len(c) :] for row, c in zip(whole, self.continuations, strict=True)]

    def _logits(self) -> mx.array:
        """(rows, steps of the longest continuation, vocab)."""
        _check_below(self.gemma, self.layer, self._below)
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


@dataclass(frozen=True)
class Choice:
    """One prompt with several texts that may follow it, read as far as `layer`.

    As with a `Reading`, the layers from there on are computed at each call; the prompt once for all
    texts, and what lies before the site of an intervention with many vectors once for all of them.

    Attributes:
        gemma: the model.
        layer: the first layer that each call computes.
        texts: token ids of each text.
    """

    gemma: Gemma
    layer: int
    texts: Sequence[Sequence[int]]
    _streams: Sequence[mx.array]
    _below: Sequence[Intervention]

    def token_log_probs(self) -> list[np.ndarray]:
        """Log-probabilities, in nats, of each text's own tokens after the prompt.

        Returns:
            Per text float32 (versions, tokens): one version, or as many as the vectors of an
            intervention with `each` that is on.

        Raises:
            RequestError: an intervention below `layer` came or went since the reading began.
        """
        _check_below(self.gemma, self.layer, self._below)
        model, hook = self.gemma.model, chain(self.gemma)
        cache = ForkedCache(self.gemma.config)
        prompt, *streams = self._streams
        # The prompt's last column predicts the first token of every text.
        first = model.run_blocks(prompt, cache, hook, first=self.layer, last=1)
        found = []
        for tokens, stream in zip(self.texts, streams, strict=True):
            ends = [first]
            if stream.shape[1]:
                ends.append(model.run_blocks(stream, cache, hook, first=self.layer))
            logits = model.logits(model.model.norm(mx.concatenate(ends, axis=1)))
            columns = mx.array(list(tokens), dtype=mx.int32)[None, :, None]
            found.append(log_probs_of(columns, logits))
        return found


def read_choice(
    gemma: Gemma, prompt: Sequence[int], texts: Sequence[Sequence[int]], *, layer: int = 0
) -> Choice:
    """Read one prompt and the texts that may follow it, as far as `layer`.

    Args:
        prompt: token ids.
        texts: token ids of each text.
        layer: as for `read_continuations`.

    Raises:
        RequestError: an empty prompt or text, more than the model's context, or no such layer.
    """
    check = Request(
        [prompt] * len(texts), layers=(layer,), sites=(), positions="forced", continuation=texts
    )
    check.check(gemma.config)
    if not all(map(len, texts)):
        raise RequestError("a continuation has no tokens")
    cache, model, hook = ForkedCache(gemma.config), gemma.model, chain(gemma)
    streams = []
    # Nothing follows a text's last token.
    for tokens in (prompt, *(text[:-1] for text in texts)):
        stream = model.embed(mx.array([list(tokens)], dtype=mx.int32))
        streams.append(
            model.run_blocks(stream, cache, hook, until=layer) if len(tokens) else stream
        )
    mx.eval(streams)
    return Choice(gemma, layer, texts, streams, _below(gemma, layer))


def log_probs_of(tokens: mx.array, logits: mx.array) -> np.ndarray:
    """Log-probabilities of the tokens (1 or rows, steps, 1) by logits (rows, steps, vocab)."""
    own = mx.take_along_axis(logits, tokens, axis=-1)[..., 0]
    if mx.default_device().type == mx.gpu:
        return np.array(own - mx.logsumexp(logits, axis=-1))
    # For exp MLX calls the C library once per element on a CPU; NumPy takes a tenth of the time.
    largest = logits.max(axis=-1, keepdims=True)
    mx.eval(own, largest, logits)
    top = np.array(largest)
    shifted = np.array(logits, copy=False) - top
    return np.array(own) - top[..., 0] - np.log(np.exp(shifted, out=shifted).sum(axis=-1))


def _check_below(gemma: Gemma, layer: int, known: Sequence[Intervention]) -> None:
    if _below(gemma, layer) != known:
        raise RequestError(f"interventions below layer {layer} changed after the reading")


def _below(gemma: Gemma, layer: int) -> list[Intervention]:
    return [each for each in gemma.interventions if each.layer < layer]
