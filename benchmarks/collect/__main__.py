"""Time collection of activations against what people use today.

    python -m benchmarks.collect                 two checkpoints: about a quarter of an hour
    python -m benchmarks.collect --only small    the small one: a few minutes
    python -m benchmarks.collect --only real     a real Gemma 3 270M, which is downloaded
    python -m benchmarks.collect --models        through mlx-lm: a small Llama and a real SmolLM2
    python -m benchmarks.collect --scaling       cost and memory by number of prompts
    python -m benchmarks.collect --steps         what each way of saving time is worth

Prints Markdown tables. Every contender reads the same prompts in the same batches, generates
exactly 20 tokens for each (no end token) and computes in float32. Runs are interleaved, so that
what else the machine does falls on all of them; a ratio is the median over rounds of the ratio
within one round. The cost of capture is measured first, in pairs of runs of its own: threads that
another library leaves spinning would fall on one of the two. mlx-lm runs in this process too, on
the BLAS that `gemma_mlx` loads. Models of mlx-lm are measured in processor time, with
OPENBLAS_NUM_THREADS=1, since threads that spin would count.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

from benchmarks.collect.growth import growth, stream
from benchmarks.collect.speed import compare, compare_language, steps
from benchmarks.page import ROOT, command_line, write
from benchmarks.workloads import (
    Workload,
    embedded_workload,
    large_workload,
    llama_workload,
    machine_with_mlx,
    real_workload,
    smollm_workload,
)

PAGE, TITLE = ROOT / "docs" / "performance.md", "Models of mlx-lm"
WORKLOADS: dict[str, Callable[[Path, int, int | None], Workload]] = {
    "small": lambda _, count, batch_size: embedded_workload(count, batch_size),
    "large": large_workload,
    "real": real_workload,
}
MODELS = (llama_workload, smollm_workload)


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("collect", __doc__)
    parser.add_argument("--only", choices=tuple(WORKLOADS), help="one checkpoint")
    parser.add_argument("--prompts", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, help="default: gemma_mlx's own plan")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--no-torch", action="store_true", help="leave transformers out")
    parser.add_argument("--scaling", action="store_true", help="cost by number of prompts instead")
    parser.add_argument("--steps", action="store_true", help="what each step is worth instead")
    parser.add_argument("--models", action="store_true", help="models of mlx-lm instead")
    parser.add_argument("--write", action="store_true", help="put those into the page")
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stream:
        print(json.dumps(stream(options.stream)))
        return 0
    if options.models:
        text = models(options.prompts, options.batch_size, options.rounds)
        print(text)
        if options.write:
            write(PAGE, TITLE, text)
        return 0
    print(machine_with_mlx(), end="\n\n", flush=True)
    if options.scaling:
        print(growth((50, 100, 400, 1600)))
        return 0
    for name in [options.only] if options.only else ["small", "large"]:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            work = WORKLOADS[name](folder, options.prompts, options.batch_size)
            if options.steps:
                text = steps(work, options.rounds)
            else:
                text = compare(work, folder, options.rounds, not options.no_torch)
        print(text, end="\n\n", flush=True)
    return 0


def models(prompts: int, batch_size: int | None, rounds: int) -> str:
    """The section of the page on models that mlx-lm computes."""
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "")
    parts = [
        f"`python -m benchmarks.collect --models --prompts {prompts} --rounds {rounds}` on "
        f"{date.today()}: {machine_with_mlx()}, `OPENBLAS_NUM_THREADS={threads}`. Tokens are those "
        "per second of processor time, Python's and MLX's together, which other work on the "
        "machine disturbs less."
    ]
    for workload in MODELS:
        with tempfile.TemporaryDirectory() as made:
            work = workload(Path(made), prompts, batch_size)
            parts.append(compare_language(work, rounds))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
