"""What a collection costs, into a store on disk, and what a large one will.

    python -m benchmarks.scaling                 some ten minutes
    python -m benchmarks.scaling --only small    without the checkpoint of 270M's shape
    python -m benchmarks.scaling --only ranks    several processes on this machine
    python -m benchmarks.scaling --only 27b      what 10,000 pairs on Gemma 3 27B need

Prints Markdown tables. One thing is varied at a time: pairs, tokens, layers, sites, and in the end
the processes that share the work. Both checkpoints are made to write every token that is asked for.
Runs are taken in turn; a row is the median of its runs. The model is loaded once, before.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from unittest.mock import patch

import gemma_mlx
from benchmarks.collect import FIXTURES, LARGE, machine, random_checkpoint
from gemma_mlx import Checkpoint, GemmaConfig
from harness.collect import collect
from harness.data.pairs import Pair, PromptPairs, load_pairs
from harness.settings import CollectSettings

EMBEDDED = FIXTURES / "tiny-gemma3-aligned"
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


def endless(folder: Path, name: str, changes: dict[str, object] | None = None) -> Checkpoint:
    """The embedded checkpoint, or random weights of another shape with its tokenizer, whose end
    token is one that isn't written."""
    path = folder / name
    if changes is None:
        shutil.copytree(EMBEDDED, path)
    else:
        random_checkpoint(path, changes)
        for file in EMBEDDED.glob("tokenizer*"):
            shutil.copy(file, path)
    config = json.loads((path / "config.json").read_text())
    config["eos_token_id"] = 0
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").unlink(missing_ok=True)
    return Checkpoint(path)


def prompts(count: int) -> PromptPairs:
    """The embedded pairs, over and over."""
    few = list(load_pairs(FIXTURES / "alignment_artifact_prompt_pairs.json"))
    repeated = (few[i % len(few)] for i in range(count))
    pairs = [
        Pair(p.category, f"{p.id}_{number:05d}", p.natural, p.artifact)
        for number, p in enumerate(repeated)
    ]
    return PromptPairs(tuple(pairs), {}, source="the embedded pairs, repeated")


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


def measured(checkpoint: Checkpoint, pairs: tuple[int, ...], rounds: int) -> str:
    config = checkpoint.config
    gemma = gemma_mlx.load_checkpoint(checkpoint)
    plan = list(rows(pairs, config.num_hidden_layers))
    seconds: dict[Row, list[float]] = {row: [] for row in plan}
    stored: dict[Row, int] = {}
    with patch.object(gemma_mlx, "load_checkpoint", lambda *_, **__: gemma):
        for number in range(rounds + 1):
            for row in plan if number else plan[:1]:
                with tempfile.TemporaryDirectory() as store:
                    start = time.perf_counter()
                    run = collect(
                        checkpoint, prompts(row.pairs), row.settings, Path(store), progress=False
                    )
                    seconds[row].append(time.perf_counter() - start)
                    stored[row] = sum(file.stat().st_size for file in run.path.iterdir())
                    steps = {len(r.token_ids) for r in run.responses().values()}
                    assert steps == {row.settings.max_tokens}
    # The first run of all warmed up.
    seconds[plan[0]] = seconds[plan[0]][1:]
    lines = [
        "| varied | size | seconds, median (range) | ms per prompt | KiB per pair in the store "
        "| of which activations |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in plan:
        took = seconds[row]
        lines.append(
            f"| {row.varied} | {row.size} | {median(took):.2f} ({min(took):.2f} to {max(took):.2f})"
            f" | {1000 * median(took) / (2 * row.pairs):.1f} "
            f"| {stored[row] / row.pairs / 1024:.1f} "
            f"| {bytes_per_pair(config, row.settings) / 1024:.1f} |"
        )
    return "\n".join(lines)


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
    gemma = gemma_mlx.load_checkpoint(checkpoint)
    few, seconds = prompts(pairs), []
    lengths = [len(ids) for ids in gemma_mlx.encode_prompts(gemma, list(few.prompts().values()))]
    length = sum(lengths) / len(lengths)
    with patch.object(gemma_mlx, "load_checkpoint", lambda *_, **__: gemma):
        for _ in range(rounds + 1):
            with tempfile.TemporaryDirectory() as store:
                start = time.perf_counter()
                collect(checkpoint, few, CollectSettings(), Path(store), progress=False)
                seconds.append(time.perf_counter() - start)
    tokens, many = 20, 20_000
    rate = operations(LARGE, length + tokens, tokens) * 2 * pairs / median(seconds[1:])
    needed = many * (
        2 * operations(GEMMA_27B, length + tokens, tokens) + operations(GEMMA_27B, length, 0)
    )
    layers, hidden = GEMMA_27B["num_hidden_layers"], GEMMA_27B["hidden_size"]
    stored = many * layers * hidden * 4 * (2 * tokens + 1)
    means = many * layers * hidden * 8
    layer = many * tokens * hidden * 4
    return "\n".join(
        (
            f"270M's shape here: {rate / 1e9:.0f} GFLOP/s, prompts of {length:.0f} tokens",
            f"operations, three positions: {needed:.2g} FLOP",
            f"time at this machine's rate: {needed / rate / 86_400:.0f} days",
            f"time at 10 TFLOP/s: {needed / 1e13 / 3600:.1f} hours",
            f"store, three positions: {stored / 1e9:.0f} GB",
            f"averages of both arms in memory, float64: {means / 1e9:.0f} GB",
            f"one layer's tokens in memory while they are averaged: {layer / 1e9:.1f} GB",
        )
    )


def ranks(checkpoint: Checkpoint, folder: Path, pairs: int, rounds: int) -> str:
    """Whole commands, start and loading included, each process on one thread of the BLAS."""
    file = folder / "pairs.json"
    listed = [{"id": p.id, "natural": p.natural, "artifact": p.artifact} for p in prompts(pairs)]
    body = {"metadata": {}, "categories": {"all": {"description": "", "pairs": listed}}}
    file.write_text(json.dumps({"alignment_artifact_prompt_pairs": body}))
    launcher = str(Path(sys.executable).with_name("mlx.launch"))
    command = [sys.executable, "-m", "harness", "collect", "--model", str(checkpoint.path)]
    command += ["--pairs", str(file), "--artifact-store"]
    launched = [launcher, "-n", "2", "--"]
    ways = {
        "one process": [],
        "two processes": launched,
        "two processes that hold the model together": launched,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    waiting, _ = os.pipe()
    for number in range(rounds):
        for way, prefix in ways.items():
            store = [str(folder / f"{way} {number}")]
            together = ["--tensor-parallel", "2"] if "together" in way else []
            start = time.perf_counter()
            subprocess.run(
                [*prefix, *command, *store, *together],
                check=True,
                capture_output=True,
                # mlx.launch spins where its input has ended.
                stdin=waiting,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            seconds[way].append(time.perf_counter() - start)
            shutil.rmtree(store[0])
    lines = [f"| {pairs} pairs by | seconds, median (range) |", "| --- | --- |"]
    for way, took in seconds.items():
        lines.append(f"| {way} | {median(took):.1f} ({min(took):.1f} to {max(took):.1f}) |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=("small", "large", "ranks", "27b"), help="one part")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parser.parse_args(arguments)
    print(machine(), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = endless(folder, "small")
        if options.only in (None, "small"):
            print(
                f"the embedded checkpoint\n\n{measured(small, (50, 100, 200, 400), options.rounds)}"
            )
        if options.only in (None, "large", "27b"):
            large = endless(folder, "large", LARGE)
            if options.only != "27b":
                print(f"\n270M's shape\n\n{measured(large, (8, 16), options.rounds)}")
            print(f"\n{forecast(large, 16, options.rounds)}")
        if options.only in (None, "ranks"):
            print(f"\n{ranks(small, folder, 400, options.rounds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
