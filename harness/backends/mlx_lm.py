"""Any model of mlx-lm as the harness asks for it.

A batch holds prompts of one number of tokens, so that no architecture and no cache ever sees a pad;
of continuations that are given, shorter ones are filled up at their right, where nothing that is
kept has seen what follows.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from gemma_mlx import Generation, Request, RequestError
from gemma_mlx.generation import chain, write
from gemma_mlx.models.gemma import Intervention
from gemma_mlx.reading import log_probs_of
from gemma_mlx.request import check_layer
from gemma_mlx.sampling import Sampler
from gemma_mlx.system.backend import mx, nn
from gemma_mlx.tokenizer import GemmaTokenizer
from harness.backends.mlx_lm_checkpoint import ModelConfig
from harness.backends.mlx_lm_loading import load as load
from harness.backends.taps import Taps

# As for Gemma (`gemma_mlx.plan_batches`): what a batch may take, the same on every machine.
_BATCH_BYTES = 2 * 1024**3
_LARGEST_BATCH = 64


@dataclass(frozen=True)
class LanguageModel:
    """A `harness.backends.model.Model` that mlx-lm computes.

    Attributes:
        model: mlx-lm's network, whose layers `taps` has wrapped.
        eos_token_ids: any of them ends a generation.
        interventions: those that are on now.
    """

    model: nn.Module
    taps: Taps
    tokenizer: GemmaTokenizer
    config: ModelConfig
    eos_token_ids: frozenset[int]
    interventions: list[Intervention] = field(default_factory=list)

    @property
    def sites(self) -> tuple[str, ...]:
        layers = self.config.num_hidden_layers
        return tuple(site for site, widths in self._widths.items() if len(widths) == layers)

    def width(self, site: str, layer: int) -> int:
        """Features of a token's vector at a site of a layer.

        Raises:
            RequestError: no such layer, or this architecture has no such site there.
        """
        check_layer(layer, self.config)
        widths = self._widths.get(site, {})
        if layer not in widths:
            found = [name for name, where in self._widths.items() if layer in where]
            raise RequestError(
                f"site {site!r} wasn't found in layer {layer} of this {self.config.model_type} "
                f"model; there are {', '.join(sorted(found))}"
            )
        return widths[layer]

    def check(self, request: Request) -> None:
        for site in request.sites:
            for layer in request.layers:
                self.width(site, layer)
        replace(request, sites=()).check(self.config)

    def plan(self, request: Request, batch_size: int | None) -> list[tuple[int, ...]]:
        """As `gemma_mlx.plan_batches`, with prompts of equal length in each batch."""
        if batch_size is not None and batch_size < 1:
            raise RequestError(f"batch_size must be 1 or more, not {batch_size}")

        def alike(number: int) -> tuple[int, int]:
            length = len(request.prompts[number])
            # A state that goes on from token to token would take the filling for text.
            return length, request.steps(number) if self._has_state else 0

        order = sorted(range(len(request.prompts)), key=lambda i: (alike(i), i))
        batches = []
        for _, same in groupby(order, alike):
            numbers = list(same)
            size = batch_size or self._rows_that_fit(request, numbers)
            batches += [tuple(numbers[i : i + size]) for i in range(0, len(numbers), size)]
        return batches[::-1]

    def run(self, request: Request, batch: Sequence[int]) -> list[Generation]:
        prompts = [request.prompts[i] for i in batch]
        recorder = Recorder(
            {(site, n): self.width(site, n) for site in request.sites for n in request.layers}
        )
        with self.taps.calling(chain(self)):
            if request.positions == "forced":
                rows = self._read(request, batch, recorder)
            else:
                rows = self._generate(request, batch, recorder)
        steps = [1 if request.positions == "prompt_last" else len(ids) for ids, _ in rows]
        return [
            Generation(
                prompt,
                ids,
                self.tokenizer.decode(ids),
                "stop" if stopped else "length",
                activations,
            )
            for prompt, (ids, stopped), activations in zip(
                prompts, rows, recorder.rows(steps), strict=True
            )
        ]

    def write(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        request = Request(prompts, layers=(), sites=())
        self.check(request)
        found = {
            number: generation.token_ids
            for batch in self.plan(request, None)
            for number, generation in zip(batch, self.run(request, batch), strict=True)
        }
        return [found[number] for number in range(len(prompts))]

    def read_choice(
        self, prompt: Sequence[int], texts: Sequence[Sequence[int]], *, layer: int = 0
    ) -> "Choice":
        """As `gemma_mlx.read_choice`; every layer is computed at each call."""
        self._check_texts([prompt] * len(texts), texts, layer)
        return Choice(self, prompt, texts)

    def read_continuations(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        layer: int = 0,
    ) -> "Reading":
        """As `gemma_mlx.read_continuations`; every layer is computed at each call."""
        self._check_texts(prompts, continuations, layer)
        return Reading(self, prompts, continuations)

    def _check_texts(
        self, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], layer: int
    ) -> None:
        self.check(
            Request(prompts, layers=(layer,), sites=(), positions="forced", continuation=texts)
        )
        if not all(map(len, texts)):
            raise RequestError("a continuation has no tokens")

    def logits_after(
        self, prompt: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> Iterator[mx.array]:
        """Of each text after the prompt the float32 logits (versions, tokens, vocab) that its
        tokens are drawn from."""
        # What an intervention makes of one row shows how many versions it has; MLX is lazy.
        changed = [
            each.change(mx.zeros((1, 1, self.width(each.site, each.layer))))
            for each in self.interventions
        ]
        versions = max((x.shape[0] for x in changed), default=1)
        cache = self._new_cache()

        def rows(tokens: Sequence[int]) -> mx.array:
            return mx.array([list(tokens)] * versions, dtype=mx.int32)

        with self.taps.calling(chain(self)):
            if len(prompt) > 1:
                self.model(rows(prompt[:-1]), cache=cache)
                mx.eval([layer.state for layer in cache])
            for text in texts:
                # Each text goes on from the prompt, and none from another.
                tokens = rows([prompt[-1], *text[:-1]])
                yield self.model(tokens, cache=deepcopy(cache)).astype(mx.float32)

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        tokens = mx.array([list(token_ids)], dtype=mx.int32)
        with self.taps.calling(chain(self)):
            found = self.model(tokens, cache=self._new_cache())[0]
        return np.asarray(found.astype(mx.float32))

    def _generate(
        self, request: Request, batch: Sequence[int], recorder: "Recorder"
    ) -> list[tuple[list[int], bool]]:
        prompts = [list(request.prompts[i]) for i in batch]
        seeds = [request.seeds[i] for i in batch] if request.seeds else [0] * len(batch)
        sample = Sampler(request.sampling, prompts, seeds, self.config.vocab_size)
        cache = self._new_cache()
        tokens = mx.array(prompts, dtype=mx.int32)
        if tokens.shape[1] > 1:
            # Without its last token the prompt needs no logits, which MLX then doesn't compute.
            self.model(tokens[:, :-1], cache=cache)
            mx.eval([layer.state for layer in cache])

        def read(column: mx.array, *, record: bool) -> mx.array:
            with self.taps.calling(chain(self, recorder if record else None)):
                return self.model(column, cache=cache)[:, -1].astype(mx.float32)

        at_first = request.positions == "prompt_last"
        token = sample(read(tokens[:, -1:], record=at_first))
        mx.async_eval(recorder.pending(), [token] if request.max_tokens else [])

        def step(token: mx.array, last: bool) -> mx.array:
            if last and at_first:
                return token
            logits = read(token[:, None], record=not at_first)
            next_token = token if last else sample(logits)
            mx.async_eval(next_token, recorder.pending())
            return next_token

        return write(token, step, max_tokens=request.max_tokens, ends=self.eos_token_ids)

    def _read(
        self, request: Request, batch: Sequence[int], recorder: "Recorder"
    ) -> list[tuple[list[int], bool]]:
        """Prompts and given continuations in one pass."""
        assert request.continuation is not None
        given = [list(request.continuation[i]) for i in batch]
        recorder.last = max(1, *map(len, given))
        with self.taps.calling(chain(self, recorder)):
            self.model(_right_pad([request.tokens(i) for i in batch]), cache=self._new_cache())
        mx.eval(recorder.pending())
        return [(ids, False) for ids in given]

    @cached_property
    def _widths(self) -> dict[str, dict[int, int]]:
        """By site and layer; a site that isn't computed exactly once in a pass isn't one."""
        shapes: dict[tuple[str, int], list[tuple[int, ...]]] = {}

        def hook(site: str, layer: int, x: mx.array) -> mx.array:
            shapes.setdefault((site, layer), []).append(x.shape)
            return x

        with self.taps.calling(hook):
            # MLX is lazy: this computes shapes alone.
            self.model(mx.zeros((1, 2), dtype=mx.int32), cache=self._new_cache())
        widths: dict[str, dict[int, int]] = {}
        for (site, layer), seen in shapes.items():
            if len(seen) == 1 and seen[0][:2] == (1, 2) and len(seen[0]) == 3:
                widths.setdefault(site, {})[layer] = seen[0][2]
        return widths

    @cached_property
    def _has_state(self) -> bool:
        """Whether a layer keeps anything but keys and values of single tokens."""
        from mlx_lm.models.cache import KVCache, RotatingKVCache

        return not all(isinstance(c, KVCache | RotatingKVCache) for c in self._new_cache())

    def _new_cache(self) -> list[Any]:
        from mlx_lm.models.cache import make_prompt_cache

        return make_prompt_cache(self.model)

    def _rows_that_fit(self, request: Request, numbers: Sequence[int]) -> int:
        columns, steps = max(map(request.length, numbers)), max(map(request.steps, numbers))
        hidden = self.width("resid_post", 0)
        captured = sum(self.width(site, n) for site in request.sites for n in request.layers)
        # Keys and values, as wide as the stream at most, and one layer over the whole prompt.
        cache = 2 * self.config.num_hidden_layers * hidden * columns
        prefill = columns * (16 * hidden + columns)
        row = 4 * (cache + 3 * max(1, steps) * captured + prefill + 4 * self.config.vocab_size)
        return max(1, min(_LARGEST_BATCH, _BATCH_BYTES // row))


@dataclass(frozen=True)
class Choice:
    """One prompt with several texts that may follow it."""

    model: LanguageModel
    prompt: Sequence[int]
    texts: Sequence[Sequence[int]]

    def token_log_probs(self) -> list[np.ndarray]:
        """As `gemma_mlx.Choice`."""
        return [
            log_probs_of(mx.array(list(text), dtype=mx.int32)[None, :, None], logits)
            for text, logits in zip(
                self.texts, self.model.logits_after(self.prompt, self.texts), strict=True
            )
        ]


@dataclass(frozen=True)
class Reading:
    """Prompts, each with a text that follows it; read one by one."""

    model: LanguageModel
    prompts: Sequence[Sequence[int]]
    continuations: Sequence[Sequence[int]]

    def log_probs(self) -> list[np.ndarray]:
        """As `gemma_mlx.Reading`."""
        found = []
        for prompt, text in zip(self.prompts, self.continuations, strict=True):
            for logits in self.model.logits_after(prompt, [text]):
                found.append(np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[0])
        return found


class Recorder:
    """A hook that keeps the last columns of each pass.

    Args:
        widths: features of a token's vector, by the sites and layers to keep.
    """

    def __init__(self, widths: Mapping[tuple[str, int], int]):
        self._widths = widths
        self._arrays: dict[tuple[str, int], list[mx.array]] = {place: [] for place in widths}
        self._pending: list[mx.array] = []
        #: Columns of a pass that are kept.
        self.last = 1

    def __call__(self, site: str, layer: int, x: mx.array) -> mx.array:
        kept = self._arrays.get((site, layer))
        if kept is not None:
            column = x
            if x.shape[1] > self.last:
                # A view would keep the whole pass in memory.
                column = mx.contiguous(x[:, -self.last :])
                mx.async_eval(column)
            kept.append(column)
            self._pending.append(column)
        return x

    def pending(self) -> list[mx.array]:
        """Arrays that were recorded since the last call, for the caller to evaluate."""
        pending, self._pending = self._pending, []
        return pending

    def rows(self, steps: Sequence[int]) -> list[dict[str, Any]]:
        """Per row and site float32 (layers, steps, width) of its first `steps` columns; where
        layers have different widths, a list over layers of (steps, width)."""
        found: list[dict[str, Any]] = [{} for _ in steps]
        for site in dict.fromkeys(site for site, _ in self._widths):
            places = [place for place in self._widths if place[0] == site]
            layers = [self._columns(place, len(steps)) for place in places]
            alike = len({columns.shape[2] for columns in layers}) <= 1
            for row, count in enumerate(steps):
                own = [columns[row, :count] for columns in layers]
                found[row][site] = np.stack(own) if alike else own
        return found

    def _columns(self, place: tuple[str, int], rows: int) -> np.ndarray:
        """(rows, columns, width) of what was kept at one place, which is freed."""
        arrays = self._arrays.pop(place)
        if not arrays:
            # Nothing was written.
            return np.zeros((rows, 0, self._widths[place]), np.float32)
        return np.asarray(mx.concatenate(arrays, axis=1).astype(mx.float32))


def _right_pad(rows: Sequence[Sequence[int]]) -> mx.array:
    grid = np.zeros((len(rows), max(map(len, rows))), dtype=np.int32)
    for number, row in enumerate(rows):
        grid[number, : len(row)] = row
    return mx.array(grid)
