"""Tokens per second of the contenders, and of ours without one of its ways of saving time."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.collect.contenders import Contender, mlx_lm, one_at_a_time, ours, transformers
from benchmarks.measure import in_turn
from benchmarks.page import spread, table
from benchmarks.workloads import TOKENS, Workload, operations, peak_operations, tokens
from gemma_mlx.models import activation
from gemma_mlx.models.gemma import GemmaModel
from gemma_mlx.system.backend import mx

Rates = list[float]
CAPTURE = "with capture of mlp_out"
HEAD = ("", "tokens/s, median (range)", "capture is faster by")


def measured(
    contenders: Mapping[str, Contender],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Rates]:
    """Tokens per second of each contender in each round, after one round to warm up."""

    def rate(contender: Contender) -> float:
        start = clock()
        done = contender()
        return tokens(done) / (clock() - start)

    calls: dict[str, Callable[[], float]] = {
        name: partial(rate, contender) for name, contender in contenders.items()
    }
    return {name: rates[1:] for name, rates in in_turn(calls, rounds + 1).items()}


def faster(ours: Rates, theirs: Rates) -> str:
    """How many times as fast as theirs ours are: the median of the ratios within one round."""
    return f"{median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}×"


def compare(work: Workload, folder: Path, rounds: int, torch: bool) -> str:
    """The cost of capture, and other programs beside ours, as a Markdown table."""
    own = measured(_own(work), 2 * rounds)
    contenders: dict[str, Contender] = {
        CAPTURE: ours(work, ("mlp_out",)),
        "mlx-lm's batch generation, no capture": mlx_lm(work),
        "one prompt at a time, npz per step": one_at_a_time(work, folder),
    }
    if torch:
        contenders["transformers, hooks, batched"] = transformers(work)
    others = measured(contenders, rounds)
    beside = others.pop(CAPTURE)
    rows = [(CAPTURE, spread(own[CAPTURE]), "")]
    rows += [(n, spread(r), faster(own[CAPTURE], r)) for n, r in own.items() if n != CAPTURE]
    rows += [(n, spread(r), faster(beside, r)) for n, r in others.items()]
    seconds = tokens(work.prompts) / median(own[CAPTURE])
    done, most = operations(work) / seconds / 1e9, peak_operations() / 1e9
    return (
        f"{_about(work)}; {rounds} rounds, {2 * rounds} for the cost of capture\n\n"
        + table(HEAD, rows)
        + f"\n\nWith capture {done:,.0f} GFLOP/s, {done / most:.0%} of the {most:,.0f} that a "
        "product of two 2048 × 2048 matrices reaches."
    )


def compare_language(work: Workload, rounds: int) -> str:
    """What capture in mlx-lm's model costs, and batches of one length, as a Markdown table.

    In processor time, which other work on the machine changes less, and from which nothing that
    Python does is hidden behind MLX's thread.
    """
    padded, capture = replace(work, batches=_padded(work.prompts)), CAPTURE
    found = measured(
        {
            **_own(work),
            "mlx-lm's batch generation, the same batches": mlx_lm(work),
            "mlx-lm's batch generation, padded batches": mlx_lm(padded),
        },
        rounds,
        time.process_time,
    )
    rows = [
        (n, spread(r), "" if n == capture else faster(found[capture], r)) for n, r in found.items()
    ]
    sizes = ", ".join(str(len(batch)) for batch in padded.batches)
    return f"{_about(work)}, or padded of {sizes}; {rounds} rounds\n\n{table(HEAD, rows)}"


def _padded(prompts: Sequence[list[int]], size: int = 64) -> list[list[list[int]]]:
    """Prompts in batches of like length."""
    ordered = sorted(prompts, key=len)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _own(work: Workload) -> dict[str, Contender]:
    # Capture reads the last token too, which generation alone has no need to: asked for one token
    # more, it makes the same passes.
    return {
        CAPTURE: ours(work, ("mlp_out",)),
        "without capture": ours(work, ()),
        "without capture, reading the last token too": ours(work, (), TOKENS + 1),
    }


def _about(work: Workload) -> str:
    lengths = [len(prompt) for prompt in work.prompts]
    return (
        f"**{work.name}**: {len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens, "
        f"batches of {', '.join(str(len(batch)) for batch in work.batches)}"
    )


def steps(work: Workload, rounds: int) -> str:
    """Tokens per second with one way of saving time taken out at a time, as a Markdown table."""
    every = ours(work, ("mlp_out",))
    rng = np.random.default_rng(0)
    prompts = [work.prompts[i] for i in rng.permutation(len(work.prompts))]
    as_they_come = [prompts[start : start + 64] for start in range(0, len(prompts), 64)]
    model = GemmaModel.__call__

    def without(target: Any, name: str, instead: Any) -> Contender:
        def changed() -> Sequence[Sequence[int]]:
            with patch.object(target, name, instead):
                return every()

        return changed

    def all_columns(self: Any, *arguments: Any, last: int | None = None, **how: Any) -> mx.array:
        return model(self, *arguments, **how)

    def all_logits(self: Any, tokens: mx.array, *arguments: Any, **how: Any) -> mx.array:
        hidden = all_columns(self, tokens, *arguments, **how)
        if tokens.shape[1] > 1:
            mx.eval(self.logits(hidden))
        return hidden

    def plain_tanh(x: mx.array) -> mx.array:
        return mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))

    contenders: dict[str, Contender] = {
        "nothing: as it is": every,
        "batches of prompts of like length": ours(
            replace(work, batches=as_they_come), ("mlp_out",)
        ),
        "the last block for the last column alone": without(GemmaModel, "__call__", all_columns),
        "that, and logits for the last column alone": without(GemmaModel, "__call__", all_logits),
        "a tanh of products and sums": without(activation, "_tanh", plain_tanh),
        "building a step while the last one runs": without(mx, "async_eval", mx.eval),
    }
    (name, whole), *others = measured(contenders, rounds).items()
    rows = [(name, spread(whole), ""), *((n, spread(r), faster(whole, r)) for n, r in others)]
    head = ("without", "tokens/s, median (range)", "what it buys")
    return f"**{work.name}**: {len(prompts)} prompts, {rounds} rounds\n\n{table(head, rows)}"
