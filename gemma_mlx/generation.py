"""Generate with capture: batches of left-padded prompts, one evaluation per step.

Step t is the forward pass whose input is generated token t. The sampled token stays lazy, so
that Python builds step t + 1 while MLX still computes step t.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import mlx.core as mx
import numpy as np

from gemma_mlx.cache import BatchCache
from gemma_mlx.capture import Activations, Recorder
from gemma_mlx.config import GemmaConfig
from gemma_mlx.errors import CheckpointError, RequestError
from gemma_mlx.loading import Gemma
from gemma_mlx.models.gemma import Hook, no_hook
from gemma_mlx.sampling import Sampler, Sampling
from gemma_mlx.sites import site as find_site

Positions = Literal["generated", "prompt_last", "forced"]

# Memory one batch may take for caches, activations and logits. A constant, not a share of this
# machine's memory, so that the same request gives the same batches everywhere.
_BATCH_BYTES = 2 * 1024**3
_LARGEST_BATCH = 64


@dataclass(frozen=True)
class Generation:
    """What one prompt gave.

    Attributes:
        prompt: the prompt, as it was given.
        token_ids: generated tokens without the end token (the continuation, where forced).
        text: their text.
        finish_reason: "stop" where the model ended its turn, "length" where it ran out of steps.
        activations: per site float32 (layers, steps, width), layers ascending; for
            "attn_pattern" a list over steps of (layers, heads, keys), keys outside a sliding
            window being 0. steps is len(token_ids), or 1 at positions "prompt_last".
    """

    prompt: str | Sequence[int]
    token_ids: list[int]
    text: str
    finish_reason: Literal["stop", "length"]
    activations: dict[str, Activations]


@dataclass(frozen=True)
class Request:
    """Prompts as token ids and everything that says what to do with them.

    `layers` are ascending, and only those are captured. `names` is what errors call the prompts,
    which are counted where it is empty.
    """

    prompts: Sequence[Sequence[int]]
    layers: tuple[int, ...]
    max_tokens: int = 20
    sites: tuple[str, ...] = ("mlp_out",)
    positions: Positions = "generated"
    sampling: Sampling = field(default_factory=Sampling)
    seeds: Sequence[int] = ()
    continuation: Sequence[Sequence[int]] | None = None
    names: Sequence[str] = ()

    def check(self, config: GemmaConfig) -> None:
        """Raise a `RequestError` that names what a model of this config can't serve."""
        if self.positions not in get_args(Positions):
            raise RequestError(
                f"positions must be one of {', '.join(get_args(Positions))}, not {self.positions!r}"
            )
        if type(self.max_tokens) is not int or self.max_tokens < 0:
            raise RequestError(f"max_tokens must be an integer, 0 or more, not {self.max_tokens!r}")
        for name in self.sites:
            find_site(name)
        for layer in self.layers:
            if not 0 <= layer < config.num_hidden_layers:
                raise RequestError(
                    f"layer {layer} is outside the model's 0 to {config.num_hidden_layers - 1}"
                )
        if (self.positions == "forced") != (self.continuation is not None):
            raise RequestError('positions="forced" and a continuation go together')
        if self.continuation is not None and len(self.continuation) != len(self.prompts):
            raise RequestError(
                f"continuation has {len(self.continuation)} entries for {len(self.prompts)} prompts"
            )
        for number, prompt in enumerate(self.prompts):
            called = _called(number, self.names)
            if not prompt:
                raise RequestError(f"{called} has no tokens")
            tokens = [*prompt, *(self.continuation[number] if self.continuation else ())]
            if min(tokens) < 0 or max(tokens) >= config.vocab_size:
                raise RequestError(
                    f"{called} holds a token id outside 0 to {config.vocab_size - 1}"
                )
            if self.length(number) > config.max_position_embeddings:
                raise RequestError(
                    f"{called} has {len(prompt)} tokens; with what follows it would take "
                    f"{self.length(number)}, and the model's context is "
                    f"{config.max_position_embeddings}"
                )

    def length(self, number: int) -> int:
        """Columns that prompt `number` takes to its end."""
        return len(self.prompts[number]) + self.steps(number)

    def steps(self, number: int) -> int:
        """Tokens that are read after prompt `number`, at most."""
        return self.max_tokens if self.continuation is None else len(self.continuation[number])


def encode_prompts(
    gemma: Gemma,
    prompts: Sequence[str | Sequence[int]],
    *,
    chat: bool = True,
    names: Sequence[str] = (),
) -> list[list[int]]:
    """Token ids of prompts; those given as token ids are taken as they are.

    Args:
        chat: put each prompt through the checkpoint's chat template.
        names: what errors call the prompts; they are counted where it is empty.

    Raises:
        CheckpointError: no tokenizer, or no chat template that can be used.
        RequestError: a prompt that isn't Unicode text, named.
    """
    encoded = []
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            encoded.append(list(prompt))
        elif gemma.tokenizer is None:
            raise CheckpointError("the checkpoint has no tokenizer.json; give prompts as token ids")
        else:
            try:
                encoded.append(gemma.tokenizer.encode(prompt, chat=chat))
            except RequestError as error:
                raise RequestError(f"{_called(number, names)}: {error}") from None
    return encoded


def _called(number: int, names: Sequence[str]) -> str:
    return f"prompt {names[number] if names else number}"


def plan_batches(
    request: Request, config: GemmaConfig, batch_size: int | None = None
) -> list[tuple[int, ...]]:
    """Prompt numbers of each batch, prompts of like length together and in order in a batch.

    Depends on the request and the model's shape alone, never on the machine, so that a plan made
    once holds for every process that works on it.
    """
    if batch_size is not None and batch_size < 1:
        raise RequestError(f"batch_size must be 1 or more, not {batch_size}")
    order = sorted(range(len(request.prompts)), key=lambda i: (request.length(i), i))
    batches: list[tuple[int, ...]] = []
    while order:
        size = batch_size or _rows_that_fit(request, config, order)
        batches.append(tuple(sorted(order[-size:])))
        del order[-size:]
    return batches[::-1]


def _rows_that_fit(request: Request, config: GemmaConfig, order: Sequence[int]) -> int:
    """Rows of the longest batch that can be made of `order`, prompts from short to long."""
    columns = request.length(order[-1])
    steps = max(map(request.steps, order[-_LARGEST_BATCH:]))
    if request.positions == "prompt_last":
        steps = 1
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * columns
    widths = [
        config.num_attention_heads * columns
        if name == "attn_pattern"
        else find_site(name).features(config)
        for name in request.sites
    ]
    # Attention scores and the MLP of the one layer that is being computed over the whole prompt.
    prefill = columns * (config.num_attention_heads * columns + 3 * config.intermediate_size)
    captured = steps * len(request.layers) * sum(widths)
    row = 4 * (cache + 3 * captured + prefill + 4 * config.vocab_size)
    return max(1, min(_LARGEST_BATCH, _BATCH_BYTES // row))


def run_batch(gemma: Gemma, request: Request, batch: Sequence[int]) -> list[Generation]:
    """Generate for the prompts numbered in `batch`, together; `.prompt` is the token ids."""
    if request.continuation is not None:
        return _replay(gemma, request, batch)
    prompts = [request.prompts[i] for i in batch]
    tokens, padding = left_pad(prompts)
    width = tokens.shape[1]
    pattern = "attn_pattern" in request.sites
    cache = BatchCache(gemma.config, padding=padding, capacity=width + request.max_tokens)
    seeds = [request.seeds[i] for i in batch] if request.seeds else [0] * len(batch)
    sample = Sampler(request.sampling, prompts, seeds, gemma.config.vocab_size)

    recorder = Recorder(gemma.config, request.sites, request.layers, tokens=1)
    at_prompt = request.positions == "prompt_last"
    hook = chain(gemma, recorder if at_prompt else None)
    hidden = gemma.model(tokens, cache, hook, pattern=at_prompt and pattern, last=1)
    if at_prompt:
        recorder.end_step(columns=width)
    token = sample(gemma.model.logits(hidden[:, -1]))
    mx.async_eval(recorder.pending(), [token] if request.max_tokens else [])

    ended = np.zeros(len(batch), dtype=bool)
    stops = np.array(sorted(gemma.eos_token_ids))
    generated: list[np.ndarray] = []
    hook = chain(gemma, None if at_prompt else recorder)
    for step in range(request.max_tokens):
        following = token
        if not at_prompt or step + 1 < request.max_tokens:
            hidden = gemma.model(token[:, None], cache, hook, pattern=pattern and not at_prompt)
            if not at_prompt:
                recorder.end_step(columns=width + step + 1)
            if step + 1 < request.max_tokens:
                following = sample(gemma.model.logits(hidden[:, -1]))
            mx.async_eval(following, recorder.pending())
        generated.append(np.array(token))
        ended |= np.isin(generated[-1], stops)
        if ended.all():
            break
        token = following

    grid = np.stack(generated, axis=1) if generated else np.zeros((len(batch), 0), np.int32)
    rows = [_until_end(row, stops) for row in grid]
    steps = [1] * len(rows) if at_prompt else [len(ids) for ids, _ in rows]
    captured = recorder.rows(steps, padding)
    return [
        Generation(prompt, ids, _decode(gemma, ids), "stop" if stopped else "length", activations)
        for prompt, (ids, stopped), activations in zip(prompts, rows, captured, strict=True)
    ]


def _replay(gemma: Gemma, request: Request, batch: Sequence[int]) -> list[Generation]:
    """Read given continuations in one pass."""
    assert request.continuation is not None
    prompts = [request.prompts[i] for i in batch]
    continuations = [list(request.continuation[i]) for i in batch]
    steps = [len(c) for c in continuations]
    tokens, padding = left_pad([[*p, *c] for p, c in zip(prompts, continuations, strict=True)])
    width = tokens.shape[1]
    recorder = Recorder(gemma.config, request.sites, request.layers, tokens=max(steps))
    if max(steps):
        cache = BatchCache(gemma.config, padding=padding, capacity=width)
        pattern = "attn_pattern" in request.sites
        gemma.model(tokens, cache, chain(gemma, recorder), pattern=pattern, last=max(steps))
        recorder.end_step(columns=width)
        mx.eval(recorder.pending())
    return [
        Generation(prompt, ids, _decode(gemma, ids), "length", activations)
        for prompt, ids, activations in zip(
            prompts, continuations, recorder.rows(steps, padding), strict=True
        )
    ]


def iter_batches(
    gemma: Gemma, request: Request, batches: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], list[Generation]]]:
    """Run a plan batch by batch, so that what is done can be stored before the next begins."""
    for batch in batches:
        yield batch, run_batch(gemma, request, batch)


def generate(
    gemma: Gemma,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_tokens: int = 20,
    sites: Sequence[str] = ("mlp_out",),
    layers: Sequence[int] | None = None,
    positions: Positions = "generated",
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | Sequence[int] = 0,
    batch_size: int | None = None,
    chat: bool = True,
    continuation: Sequence[Sequence[int]] | None = None,
) -> list[Generation]:
    """Generate for each prompt, capturing activations; results are in the order of `prompts`.

    Args:
        prompts: texts, or token ids, which are taken as they are.
        max_tokens: steps at most.
        sites: what to capture (`gemma_mlx.SITES`); empty for nothing.
        layers: layers to capture, all by default.
        positions: "generated" captures at every generated token, "prompt_last" at the prompt's
            last token, "forced" at the tokens of `continuation`, read in one pass.
        temperature, top_p, top_k, min_p, repetition_penalty: see `gemma_mlx.Sampling`.
        seed: one seed for the request, or one per prompt. A prompt's sample depends on its seed
            alone; with one seed for all, on that and on its place in `prompts`.
        batch_size: prompts per batch; by default as many as fit a fixed memory budget. Results
            don't depend on it beyond float rounding.
        chat: put each prompt through the checkpoint's chat template.
        continuation: token ids to read after each prompt, for positions "forced".

    Raises:
        RequestError: a request this model can't serve.
        CheckpointError: the checkpoint has no tokenizer or chat template and needs one.
    """
    if isinstance(prompts, str):
        raise RequestError("prompts is one text; give a list of them")
    ids = encode_prompts(gemma, prompts, chat=chat)
    seeds = [prompt_seed(seed, i) for i in range(len(ids))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(ids):
        raise RequestError(f"seed has {len(seeds)} entries for {len(ids)} prompts")
    request = Request(
        prompts=ids,
        max_tokens=max_tokens,
        sites=tuple(sites),
        layers=tuple(
            range(gemma.config.num_hidden_layers) if layers is None else sorted(set(layers))
        ),
        positions=positions,
        sampling=Sampling(temperature, top_p, top_k, min_p, repetition_penalty),
        seeds=seeds,
        continuation=None if continuation is None else [list(c) for c in continuation],
    )
    request.check(gemma.config)
    results: dict[int, Generation] = {}
    for batch, generations in iter_batches(
        gemma, request, plan_batches(request, gemma.config, batch_size)
    ):
        results.update(zip(batch, generations, strict=True))
    return [
        Generation(prompt, g.token_ids, g.text, g.finish_reason, g.activations)
        for prompt, g in ((prompts[i], results[i]) for i in range(len(ids)))
    ]


def logits(gemma: Gemma, token_ids: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """Logits (batch, length, vocab), float32, of whole rows of token ids (batch, length)."""
    rows = np.asarray(token_ids)
    if rows.ndim != 2 or not rows.size or not np.issubdtype(rows.dtype, np.integer):
        raise RequestError("token ids must be integers of shape (batch, length)")
    # MLX reads whatever lies beyond the embedding.
    if rows.min() < 0 or rows.max() >= gemma.config.vocab_size:
        raise RequestError(f"a token id is outside 0 to {gemma.config.vocab_size - 1}")
    tokens = mx.array(rows.astype(np.int32))
    return np.array(gemma.model.logits(gemma.model(tokens, hook=chain(gemma))))


def prompt_seed(seed: int, key: int | str) -> int:
    """The seed of one prompt, from the request's seed and the prompt's number or name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little")


def chain(gemma: Gemma, recorder: Recorder | None = None) -> Hook:
    """Interventions first, so that what is captured is what the model goes on with."""
    hooks: list[Hook] = [*gemma.interventions, *([recorder] if recorder else [])]
    if len(hooks) <= 1:
        return hooks[0] if hooks else no_hook

    def hook(site: str, layer: int, x: mx.array) -> mx.array:
        for each in hooks:
            x = each(site, layer, x)
        return x

    return hook


def left_pad(rows: Sequence[Sequence[int]]) -> tuple[mx.array, list[int]]:
    """Rows as one array (rows, columns), and how many columns each was padded by."""
    width = max(len(row) for row in rows)
    padding = [width - len(row) for row in rows]
    grid = np.zeros((len(rows), width), dtype=np.int32)
    for number, row in enumerate(rows):
        grid[number, padding[number] :] = row
    return mx.array(grid), padding


def _until_end(row: np.ndarray, stops: np.ndarray) -> tuple[list[int], bool]:
    ends = np.flatnonzero(np.isin(row, stops))
    return (row[: ends[0]].tolist(), True) if ends.size else (row.tolist(), False)


def _decode(gemma: Gemma, ids: Sequence[int]) -> str:
    return gemma.tokenizer.decode(ids) if gemma.tokenizer else ""
