"""What a collection costs, into a store on disk, and what a large one will.

    python -m benchmarks.scaling                 some ten minutes
    python -m benchmarks.scaling --only small    without the checkpoint of 270M's shape
    python -m benchmarks.scaling --only ranks    several processes on this machine
    python -m benchmarks.scaling --only 27b      what 10,000 pairs on Gemma 3 27B need

Prints Markdown tables. One thing is varied at a time: pairs, tokens, layers, sites, and in the end
the processes that share the work. Both checkpoints are made to write every token that is asked for.
Runs are taken in turn; a row is the median of its runs. The model is loaded once, before.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import gemma_mlx
from benchmarks.measure import in_turn
from benchmarks.page import command_line, spread, table
from benchmarks.workloads import LARGE, endless_checkpoint, machine_with_mlx, repeated_pairs
from gemma_mlx import Checkpoint, Gemma, GemmaConfig
from harness.collect import collect
from harness.progress import SILENT
from harness.settings import CollectSettings

# As published.
GEMMA_27B: dict[str, int] = {
    "vocab_size": 262_208,
    "hidden_size": 5376,
    "intermediate_size": 21_504,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
}


@dataclass(frozen=True)
class Row:
    """One size of the thing that is varied."""

    varied: str
    size: str
    pairs: int
    settings: CollectSettings


def rows(pairs: tuple[int, ...], layers: int) -> Iterator[Row]:
    base = CollectSettings()
    for count in pairs:
        yield Row("pairs", str(count), count, base)
    for tokens in (5, 10, 40, 80):
        yield Row("tokens", str(tokens), pairs[0], replace(base, max_tokens=tokens))
    for kept in (1, layers // 2):
        yield Row("layers", str(kept), pairs[0], replace(base, layers=tuple(range(kept))))
    for sites in (gemma_mlx.VECTOR_SITES[:3], gemma_mlx.VECTOR_SITES):
        yield Row("sites", str(len(sites)), pairs[0], replace(base, sites=sites))


def bytes_per_pair(config: GemmaConfig, settings: CollectSettings) -> int:
    """Float32 activations of both prompts."""
    layers = len(settings.layers) or config.num_hidden_layers
    width = sum(gemma_mlx.SITES[site].features(config) for site in settings.sites)
    return 2 * 4 * layers * settings.max_tokens * width


@contextmanager
def loaded_once(checkpoint: Checkpoint) -> Iterator[Gemma]:
    """The model, which every collection takes instead of loading it again."""
    gemma = gemma_mlx.load_checkpoint(checkpoint)
    with patch.object(gemma_mlx, "load_checkpoint", lambda *_, **__: gemma):
        yield gemma


def collected(checkpoint: Checkpoint, pairs: int, settings: CollectSettings) -> tuple[float, int]:
    """Seconds that a collection takes, and bytes that it leaves in the store."""
    prompts = repeated_pairs(pairs)
    with tempfile.TemporaryDirectory() as store:
        start = time.perf_counter()
        run = collect(checkpoint, prompts, settings, Path(store), bars=SILENT)
        seconds = time.perf_counter() - start
        assert {len(r.token_ids) for r in run.responses().values()} == {settings.max_tokens}
        return seconds, sum(file.stat().st_size for file in run.path.iterdir())


def by_size(checkpoint: Checkpoint, pairs: tuple[int, ...], rounds: int) -> str:
    """A Markdown table of what is varied, one row a size."""
    config = checkpoint.config
    plan = {f"{r.varied}, {r.size}": r for r in rows(pairs, config.num_hidden_layers)}
    calls = {n: partial(collected, checkpoint, r.pairs, r.settings) for n, r in plan.items()}
    with loaded_once(checkpoint):
        next(iter(calls.values()))()  # to warm up
        found = in_turn(calls, rounds)
    cells = []
    for name, row in plan.items():
        seconds, stored = zip(*found[name], strict=True)
        cells.append(
            (
                row.varied,
                row.size,
                spread(seconds, ".2f"),
                f"{1000 * median(seconds) / (2 * row.pairs):.1f}",
                f"{stored[-1] / row.pairs / 1024:.1f}",
                f"{bytes_per_pair(config, row.settings) / 1024:.1f}",
            )
        )
    head = ("varied", "size", "seconds, median (range)", "ms per prompt")
    return table((*head, "KiB per pair in the store", "of which activations"), cells)


def operations(shape: dict[str, int], read: float, written: int) -> float:
    """Floating-point operations of the matrix products over `read` tokens, `written` of which were
    drawn from the vocabulary."""
    hidden, width = shape["hidden_size"], shape["head_dim"]
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    attention = 2 * hidden * width * (heads + kv_heads)
    block = attention + 3 * hidden * shape["intermediate_size"]
    return 2 * (read * block * shape["num_hidden_layers"] + written * hidden * shape["vocab_size"])


def forecast(checkpoint: Checkpoint, pairs: int, rounds: int) -> str:
    """From 270M's shape here to 10,000 pairs on 27B, at the three positions of the checks."""
    with loaded_once(checkpoint) as gemma:
        texts = list(repeated_pairs(pairs).prompts().values())
        lengths = [len(ids) for ids in gemma_mlx.encode_prompts(gemma, texts)]
        settings = CollectSettings()
        _, *seconds = (collected(checkpoint, pairs, settings)[0] for _ in range(rounds + 1))
    length, tokens, many = sum(lengths) / len(lengths), settings.max_tokens, 20_000
    rate = operations(LARGE, length + tokens, tokens) * 2 * pairs / median(seconds)
    needed = many * (
        2 * operations(GEMMA_27B, length + tokens, tokens) + operations(GEMMA_27B, length, 0)
    )
    layers, hidden = GEMMA_27B["num_hidden_layers"], GEMMA_27B["hidden_size"]
    stored = many * layers * hidden * 4 * (2 * tokens + 1)
    means = many * hidden * 8
    layer = many * tokens * hidden * 4
    return "\n".join(
        (
            f"270M's shape here: {rate / 1e9:.0f} GFLOP/s, prompts of {length:.0f} tokens",
            f"operations, three positions: {needed:.2g} FLOP",
            f"time at this machine's rate: {needed / rate / 86_400:.0f} days",
            f"time at 10 TFLOP/s: {needed / 1e13 / 3600:.1f} hours",
            f"store, three positions: {stored / 1e9:.0f} GB",
            f"averages of one layer's arms in memory, float64: {means / 1e9:.1f} GB",
            f"one layer's tokens in memory while they are averaged: {layer / 1e9:.1f} GB",
        )
    )


def ranks(checkpoint: Checkpoint, folder: Path, pairs: int, rounds: int) -> str:
    """Whole commands, start and loading included, each process on one thread of the BLAS."""
    file = folder / "pairs.json"
    listed = [
        {"id": p.id, "natural": p.natural, "artifact": p.artifact} for p in repeated_pairs(pairs)
    ]
    body = {"metadata": {}, "categories": {"all": {"description": "", "pairs": listed}}}
    file.write_text(json.dumps({"alignment_artifact_prompt_pairs": body}))
    command = [sys.executable, "-m", "harness", "collect"]
    command += ["--model", str(checkpoint.path), "--pairs", str(file)]
    launched = [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--", *command]
    waiting, _ = os.pipe()

    def timed(command: list[str]) -> float:
        with tempfile.TemporaryDirectory() as store:
            start = time.perf_counter()
            subprocess.run(
                [*command, "--artifact-store", store],
                check=True,
                capture_output=True,
                # mlx.launch spins where its input has ended.
                stdin=waiting,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            return time.perf_counter() - start

    together = [*launched, "--tensor-parallel", "2"]
    calls = {
        "one process": partial(timed, command),
        "two processes": partial(timed, launched),
        "two processes that hold the model together": partial(timed, together),
    }
    took = ((way, spread(seconds, ".1f")) for way, seconds in in_turn(calls, rounds).items())
    return table((f"{pairs} pairs by", "seconds, median (range)"), took)


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("scaling", __doc__)
    parser.add_argument("--only", choices=("small", "large", "ranks", "27b"), help="one part")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args(arguments)
    print(machine_with_mlx(), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = endless_checkpoint(folder / "small")
        if options.only in (None, "small"):
            sizes = by_size(small, (50, 100, 200, 400), options.rounds)
            print(f"the embedded checkpoint\n\n{sizes}")
        if options.only in (None, "large", "27b"):
            large = endless_checkpoint(folder / "large", LARGE)
            if options.only != "27b":
                print(f"\n270M's shape\n\n{by_size(large, (8, 16), options.rounds)}")
            print(f"\n{forecast(large, 16, options.rounds)}")
        if options.only in (None, "ranks"):
            print(f"\n{ranks(small, folder, 400, options.rounds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
