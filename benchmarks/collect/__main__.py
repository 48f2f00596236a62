"""Time collection of activations against what people use today.

    python -m benchmarks.collect                 two checkpoints: about a quarter of an hour
    python -m benchmarks.collect --only small    the small one: a few minutes
    python -m benchmarks.collect --only real     a real Gemma 3 270M, which is downloaded
    python -m benchmarks.collect --scaling       cost and memory by number of prompts
    python -m benchmarks.collect --steps         what each way of saving time is worth

Prints Markdown tables. Every contender reads the same prompts in the same batches, generates
exactly 20 tokens for each (no end token) and computes in float32. Runs are interleaved, so that
what else the machine does falls on all of them; a ratio is the median over rounds of the ratio
within one round. The cost of capture is measured first, in pairs of runs of its own: threads that
another library leaves spinning would fall on one of the two. mlx-lm runs in this process too, on
the BLAS that `gemma_mlx` loads.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.collect.growth import growth, stream
from benchmarks.collect.speed import compare, steps
from benchmarks.page import command_line
from benchmarks.workloads import (
    Workload,
    embedded_workload,
    large_workload,
    machine_with_mlx,
    real_workload,
)

WORKLOADS: dict[str, Callable[[Path, int, int | None], Workload]] = {
    "small": lambda _, count, batch_size: embedded_workload(count, batch_size),
    "large": large_workload,
    "real": real_workload,
}


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("collect", __doc__)
    parser.add_argument("--only", choices=tuple(WORKLOADS), help="one checkpoint")
    parser.add_argument("--prompts", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, help="default: gemma_mlx's own plan")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--no-torch", action="store_true", help="leave transformers out")
    parser.add_argument("--scaling", action="store_true", help="cost by number of prompts instead")
    parser.add_argument("--steps", action="store_true", help="what each step is worth instead")
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stream:
        print(json.dumps(stream(options.stream)))
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


if __name__ == "__main__":
    sys.exit(main())
