"""Time and peak memory of a collection into a store, by number of pairs."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import gemma_mlx
from benchmarks.measure import peak
from benchmarks.page import table
from benchmarks.workloads import EMBEDDED, embedded_workload, repeated_pairs
from gemma_mlx.system.backend import mx
from harness.collect import collect
from harness.progress import SILENT
from harness.settings import CollectSettings


def growth(counts: Sequence[int]) -> str:
    """A Markdown table; each count in a process of its own, for its peak memory."""
    rows = []
    for pairs in counts:
        command = [sys.executable, "-m", "benchmarks.collect", "--stream", str(pairs)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        rows.append(
            (
                pairs,
                2 * pairs,
                f"{found['seconds']:.2f}",
                f"{1000 * found['seconds'] / (2 * pairs):.2f}",
                f"{found['mlx']:.0f} MiB",
                f"{found['process']:.0f} MiB",
            )
        )
    head = ("pairs", "prompts", "seconds", "ms per prompt", "MLX's peak memory")
    return table((*head, "process's peak memory"), rows)


def stream(pairs: int) -> dict[str, float]:
    """Collect so many pairs: seconds, and the peaks of MLX's and the process's memory, MiB."""
    embedded_workload(4, None)  # to warm up
    checkpoint, prompts = gemma_mlx.find_checkpoint(EMBEDDED), repeated_pairs(pairs)
    mx.reset_peak_memory()
    with tempfile.TemporaryDirectory() as store:
        start = time.perf_counter()
        collect(checkpoint, prompts, CollectSettings(), Path(store), bars=SILENT)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "mlx": mx.get_peak_memory() / 2**20, "process": peak()}
