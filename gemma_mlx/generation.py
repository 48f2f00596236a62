"""Generate with capture, in batches of left-padded prompts.

Step t is the forward pass whose input is generated token t. The sampled token stays lazy, so
that Python builds step t + 1 while MLX still computes step t.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from gemma_mlx.cache import BatchCache
from gemma_mlx.capture import Activations, Recorder
from gemma_mlx.errors import CheckpointError, RequestError
from gemma_mlx.intervention import Hooked
from gemma_mlx.loading import Gemma
from gemma_mlx.models.gemma import Hook
from gemma_mlx.request import Positions, Request, Sampling, plan_batches, prompt_name
from gemma_mlx.sampling import Sampler
from gemma_mlx.system.backend import mx
from gemma_mlx.tokenizer import GemmaTokenizer


@dataclass(frozen=True)
class Generation:
    """What the model wrote after one prompt, and its activations.

    Attributes:
        prompt: the prompt, as it was given.
        token_ids: the generated tokens without the end token, or the given continuation.
        text: their text; empty where the checkpoint has no tokenizer.
        finish_reason: "stop" where the model ended its turn, "length" where it reached the most
            tokens or read a continuation.
        activations: per site float32 (layers, steps, width), layers ascending; for
            "attn_pattern" a list over steps of (layers, heads, keys), keys outside a sliding
            window being 0. steps is len(token_ids), or 1 at positions "prompt_last".
    """

    prompt: str | Sequence[int]
    token_ids: list[int]
    text: str
    finish_reason: Literal["stop", "length"]
    activations: dict[str, Activations]


class Speaking(Protocol):
    """A model with the tokenizer that belongs to it, if there is one."""

    @property
    def tokenizer(self) -> GemmaTokenizer | None: ...


def encode_prompts(
    gemma: Speaking,
    prompts: Sequence[str | Sequence[int]],
    *,
    chat: bool = True,
    names: Sequence[str] = (),
) -> list[list[int]]:
    """Token ids of prompts; those given as token ids are taken as they are.

    Args:
        chat: put each prompt through the checkpoint's chat template.
        names: what errors call the prompts; their numbers where it is empty.

    Raises:
        CheckpointError: no tokenizer, or no chat template that can be used.
        RequestError: a prompt that isn't Unicode text; the message names it.
    """
    encoded = []
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            encoded.append(list(prompt))
        elif gemma.tokenizer is None:
            raise CheckpointError("the checkpoint has no tokenizer; give prompts as token ids")
        else:
            try:
                encoded.append(gemma.tokenizer.encode(prompt, chat=chat))
            except RequestError as error:
                raise RequestError(f"{prompt_name(number, names)}: {error}") from None
    return encoded


def run_batch(gemma: Gemma, request: Request, batch: Sequence[int]) -> list[Generation]:
    """Generate for some prompts of a request as one batch.

    Args:
        batch: numbers of the prompts.

    Returns:
        One per number, in the order of `batch`; `.prompt` is the token ids.
    """
    prompts = [request.prompts[i] for i in batch]
    given = None if request.continuation is None else [list(request.continuation[i]) for i in batch]
    max_tokens = request.max_tokens if given is None else 0
    tokens, padding = left_pad([request.tokens(i) for i in batch])
    cache = BatchCache(gemma.config, padding=padding, capacity=tokens.shape[1] + max_tokens)
    seeds = [request.seeds[i] for i in batch] if request.seeds else [0] * len(batch)
    sample = Sampler(request.sampling, prompts, seeds, gemma.config.vocab_size)
    # What is captured lies in the first pass, at its last columns, or in a pass for each token.
    at_first = request.positions != "generated"
    last = max([1, *map(len, given or ())])
    recorder = Recorder(gemma.config, request.sites, request.layers, tokens=last)

    def read(tokens: mx.array, *, record: bool) -> mx.array:
        hook = chain(gemma, recorder if record else None)
        pattern = record and request.has_patterns
        hidden = gemma.model(tokens, cache, hook, pattern=pattern, last=last)
        if record:
            recorder.end_step(columns=cache.columns.count)
        return gemma.model.logits(hidden[:, -1])

    token = sample(read(tokens, record=at_first))
    mx.async_eval(recorder.pending(), [token] if max_tokens else [])

    def step(token: mx.array, last: bool) -> mx.array:
        if last and at_first:
            return token
        logits_after = read(token[:, None], record=not at_first)
        next_token = token if last else sample(logits_after)
        mx.async_eval(next_token, recorder.pending())
        return next_token

    rows = write(token, step, max_tokens=max_tokens, ends=gemma.eos_token_ids)
    if given is not None:
        rows = [(ids, False) for ids in given]
    steps = [1 if request.positions == "prompt_last" else len(ids) for ids, _ in rows]
    captured = recorder.rows(steps, padding)
    return [
        Generation(
            prompt,
            ids,
            gemma.tokenizer.decode(ids) if gemma.tokenizer else "",
            "stop" if stopped else "length",
            activations,
        )
        for prompt, (ids, stopped), activations in zip(prompts, rows, captured, strict=True)
    ]


def write(
    token: mx.array,
    step: Callable[[mx.array, bool], mx.array],
    *,
    max_tokens: int,
    ends: frozenset[int],
) -> list[tuple[list[int], bool]]:
    """Write tokens until every row has ended, or has as many as it may have.

    Args:
        token: the first of each row, (rows,), which may be lazy.
        step: reads a token of each row and returns the next ones; also told whether the token is
            the last that may be written, and no other follows.
        ends: tokens that end a row.

    Returns:
        Per row its tokens without the end token, and whether there was one.
    """
    stops = np.array(sorted(ends))
    ended = np.zeros(token.shape[0], dtype=bool)
    generated = [np.zeros((0, len(ended)), np.int32)]
    for left in reversed(range(max_tokens)):
        next_token = step(token, left == 0)
        generated.append(np.array(token)[None])
        ended |= np.isin(generated[-1][0], stops)
        if ended.all():
            break
        token = next_token
    return [_until_end(row, stops) for row in np.concatenate(generated).T]


def generate(
    gemma: Gemma,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_tokens: int = Request.max_tokens,
    sites: Sequence[str] = Request.sites,
    layers: Sequence[int] | None = None,
    positions: Positions = Request.positions,
    temperature: float = Sampling.temperature,
    top_p: float = Sampling.top_p,
    top_k: int = Sampling.top_k,
    min_p: float = Sampling.min_p,
    repetition_penalty: float = Sampling.repetition_penalty,
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
    for batch in plan_batches(request, gemma.config, batch_size):
        results.update(zip(batch, run_batch(gemma, request, batch), strict=True))
    return [replace(results[number], prompt=prompt) for number, prompt in enumerate(prompts)]


def logits(gemma: Gemma, token_ids: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    """Logits (batch, length, vocab), float32, of token ids (batch, length), each row a whole text.

    Raises:
        RequestError: not integers of that shape, or not the vocabulary's.
    """
    rows = np.asarray(token_ids)
    if rows.ndim != 2 or not rows.size or not np.issubdtype(rows.dtype, np.integer):
        raise RequestError("token ids must be integers of shape (batch, length)")
    # MLX checks no index: it would read memory beyond the embedding.
    if rows.min() < 0 or rows.max() >= gemma.config.vocab_size:
        raise RequestError(f"a token id is outside 0 to {gemma.config.vocab_size - 1}")
    tokens = mx.array(rows.astype(np.int32))
    return np.array(gemma.model.logits(gemma.model(tokens, hook=chain(gemma))))


def prompt_seed(seed: int, key: int | str) -> int:
    """Seed of one prompt's random numbers, from the request's seed and its number or name."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little")


def chain(gemma: Hooked, recorder: Hook | None = None) -> Hook:
    """One hook of the interventions that are on and, after them, `recorder`."""
    hooks: list[Hook] = [*gemma.interventions, *([recorder] if recorder else [])]

    def hook(site: str, layer: int, x: mx.array) -> mx.array:
        for each in hooks:
            x = each(site, layer, x)
        return x

    return hook


def left_pad(rows: Sequence[Sequence[int]]) -> tuple[mx.array, list[int]]:
    """Rows of token ids as one int32 array (rows, columns), and the pad columns of each."""
    width = max(len(row) for row in rows)
    padding = [width - len(row) for row in rows]
    grid = np.zeros((len(rows), width), dtype=np.int32)
    for number, row in enumerate(rows):
        grid[number, padding[number] :] = row
    return mx.array(grid), padding


def _until_end(row: np.ndarray, stops: np.ndarray) -> tuple[list[int], bool]:
    ends = np.flatnonzero(np.isin(row, stops))
    return (row[: ends[0]].tolist(), True) if ends.size else (row.tolist(), False)
