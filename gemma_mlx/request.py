"""What is asked of the model, and its defaults: prompts, what to capture where, how to sample.

Importing this loads neither MLX nor NumPy, so that options can take their defaults from here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from gemma_mlx.errors import RequestError
from gemma_mlx.sites import find_site

if TYPE_CHECKING:  # Importing it takes longer than everything here.
    from gemma_mlx.config import GemmaConfig

#: Which tokens activations are captured at: every generated one; the prompt's last; or those of a
#: given continuation, which is read in one pass.
Positions = Literal["generated", "prompt_last", "forced"]

# Memory one batch may take for caches, activations and logits. A constant, not a share of this
# machine's memory, so that the same request gives the same batches everywhere.
_BATCH_BYTES = 2 * 1024**3
_LARGEST_BATCH = 64


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token.

    Attributes:
        temperature: divides the logits; 0 always takes the most likely token.
        top_p: draw from the most likely tokens that together have this probability; 1 is off.
        top_k: draw from this many of the most likely tokens; 0 is off.
        min_p: leave out tokens below this share of the most likely one's probability (Nguyen et
            al. 2024, arXiv:2407.01082); 0 is off.
        repetition_penalty: divides positive and multiplies negative logits of every token already
            in the row, prompt included (Keskar et al. 2019, arXiv:1909.05858); 1 is off.

    Raises:
        RequestError: a value out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", type(self.top_k) is int and self.top_k >= 0, "an integer, 0 (off) or more"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0 (1 is off)"),
        ):
            if not good:
                raise RequestError(f"{name} must be {wanted}, not {getattr(self, name)}")


class Shape(Protocol):
    """What a request depends on of a model, under the names of config.json."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...


@dataclass(frozen=True)
class Request:
    """Prompts as token ids and everything that says what to do with them.

    Attributes:
        prompts: token ids of each prompt.
        layers: the layers to capture, ascending.
        max_tokens: tokens to generate per prompt, at most.
        sites: what to capture in these layers; empty for nothing.
        positions: the tokens to capture at.
        sampling: how tokens are chosen.
        seeds: of each prompt's random numbers; 0 for all where it is empty.
        continuation: token ids to read after each prompt, where `positions` is "forced".
        names: what errors call the prompts; their numbers where it is empty.
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

    def check(self, config: Shape) -> None:
        """Refuse what a model of this config can't do.

        Raises:
            RequestError: naming the value and the prompt.
        """
        if self.positions not in get_args(Positions):
            raise RequestError(
                f"positions must be one of {', '.join(get_args(Positions))}, not {self.positions!r}"
            )
        if type(self.max_tokens) is not int or self.max_tokens < 0:
            raise RequestError(f"max_tokens must be an integer, 0 or more, not {self.max_tokens!r}")
        for name in self.sites:
            find_site(name)
        for layer in self.layers:
            check_layer(layer, config)
        if (self.positions == "forced") != (self.continuation is not None):
            raise RequestError('positions="forced" and a continuation go together')
        if self.continuation is not None and len(self.continuation) != len(self.prompts):
            raise RequestError(
                f"continuation has {len(self.continuation)} entries for {len(self.prompts)} prompts"
            )
        for number, prompt in enumerate(self.prompts):
            called = prompt_name(number, self.names)
            if not prompt:
                raise RequestError(f"{called} has no tokens")
            tokens = self.tokens(number)
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

    @property
    def has_patterns(self) -> bool:
        """Whether attention weights are captured, for which attention is computed more slowly."""
        return not all(find_site(name).is_vector for name in self.sites)

    def tokens(self, number: int) -> list[int]:
        """Prompt `number` and its continuation, if one is given."""
        return [*self.prompts[number], *(self.continuation[number] if self.continuation else ())]

    def length(self, number: int) -> int:
        """Tokens of prompt `number` and what follows it, at most."""
        return len(self.prompts[number]) + self.steps(number)

    def steps(self, number: int) -> int:
        """Tokens that are read after prompt `number`, at most."""
        return self.max_tokens if self.continuation is None else len(self.continuation[number])


def check_layer(layer: int, config: Shape) -> None:
    """Raise a `RequestError` where the model has no such layer."""
    if not 0 <= layer < config.num_hidden_layers:
        raise RequestError(
            f"layer {layer} is outside the model's 0 to {config.num_hidden_layers - 1}"
        )


def prompt_name(number: int, names: Sequence[str]) -> str:
    """What an error calls prompt `number`."""
    return f"prompt {names[number] if names else number}"


def plan_batches(
    request: Request, config: GemmaConfig, batch_size: int | None = None
) -> list[tuple[int, ...]]:
    """Prompt numbers of each batch, ascending; a batch's prompts are of similar length.

    The plan depends on the request and the model's shape alone, never on the machine: made once,
    it holds for every process that works on it.

    Args:
        batch_size: prompts per batch; by default as many as fit a fixed amount of memory.

    Raises:
        RequestError: a `batch_size` below 1.
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
    """Prompts that fit into one batch, taken from the end of `order`, where the longest are."""
    columns = request.length(order[-1])
    steps = max(map(request.steps, order[-_LARGEST_BATCH:]))
    if request.positions == "prompt_last":
        steps = 1
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * columns
    widths = [
        site.features(config) if site.is_vector else config.num_attention_heads * columns
        for site in map(find_site, request.sites)
    ]
    # Attention scores and the MLP of the one layer that is being computed over the whole prompt.
    prefill = columns * (config.num_attention_heads * columns + 3 * config.intermediate_size)
    captured = steps * len(request.layers) * sum(widths)
    row = 4 * (cache + 3 * captured + prefill + 4 * config.vocab_size)
    return max(1, min(_LARGEST_BATCH, _BATCH_BYTES // row))
