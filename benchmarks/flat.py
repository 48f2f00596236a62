"""Does the analysis take more memory where a model has more layers?

    python -m benchmarks.flat                                10,000 pairs; an hour
    python -m benchmarks.flat --pairs 1000 --width 1152      a minute

Prints a Markdown table: `harness.stats.separation` with its defaults on 1 and 2 layers that are
made when they are asked for, each number in a process of its own, and what 62 layers would take at
the time that a further layer took.
"""

import multiprocessing
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.measure import peak
from benchmarks.page import command_line, machine, table
from harness.stats import separation

DEEPEST = 62  # Gemma 3 27B


class Noise(Sequence[np.ndarray]):
    """Layers of noise, float32, as a store gives them; the same whenever they are asked for."""

    def __init__(self, seed: int, layers: int, pairs: int, width: int) -> None:
        self._seed, self._layers, self._shape = seed, layers, (pairs, width)

    def __len__(self) -> int:
        return self._layers

    def __getitem__(self, index: Any) -> Any:
        rng = np.random.default_rng((self._seed, range(self._layers)[index]))
        return rng.standard_normal(self._shape, dtype=np.float32)


def measure(layers: int, pairs: int, width: int) -> tuple[float, float]:
    """Processor seconds, and the process's peak in MiB."""
    started = time.process_time()
    separation(*(Noise(seed, layers, pairs, width) for seed in (0, 1)))
    return time.process_time() - started, peak()


def main(arguments: list[str] | None = None) -> None:
    parser = command_line("flat", __doc__)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=5376)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args(arguments)
    found = {}
    for layers in options.layers:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[layers] = pool.apply(measure, (layers, options.pairs, options.width))
    rows = [
        (str(layers), f"{seconds:,.0f} s", f"{most:,.0f} MiB")
        for layers, (seconds, most) in found.items()
    ]
    first, last = min(found), max(found)
    each = (found[last][0] - found[first][0]) / (last - first)
    whole = found[first][0] + each * (DEEPEST - first)
    rows.append((f"{DEEPEST}, extrapolated", f"{whole / 3600:.1f} h", ""))
    print(
        f"{options.pairs:,} pairs × {options.width:,} dimensions, 10,000 flips and bootstrap "
        f"replicates, measured on {machine('NumPy', 'SciPy')}.\n\n"
        f"{table(('layers', 'processor time', 'peak'), rows)}"
    )


if __name__ == "__main__":
    main()
