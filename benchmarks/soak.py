"""A long run: thousands of pairs through collection, the whole analysis and the report.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.soak               2,000 pairs: some ten minutes
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.soak --pairs 200   half a minute

Prints a Markdown table: the processor time of each part, and by how much it raises the peak of the
process's memory; parts that fit into what earlier ones gave back raise it by nothing. The pairs are
distinct ones of the grammar that the embedded checkpoint knows, every setting is the checks'
default, and the parts are timed where the analysis calls them.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measure import peak
from benchmarks.page import command_line, machine, table
from fixtures.corpus import scenarios
from harness.analysis import layers as analysis
from harness.data.pairs import Pair, PromptPairs
from harness.experiment import Experiment
from harness.report import plots
from harness.results.file import FILE_NAME

# Where `Experiment.run` and `harness.analysis.estimating.analyze` call for each part.
PARTS = (
    (Experiment, "collect", "collecting"),
    (analysis, "read_activations", "reading activations, averaging over tokens"),
    (analysis, "separation", "sign flips and bootstrap"),
    (analysis, "in_sample_separation", "in-sample figures"),
    (analysis, "category_transfer", "categories left out"),
    (analysis, "step_curves", "curves by token"),
    (analysis, "pair_quality", "agreement of the pairs"),
    (analysis, "text_baselines", "baselines of text"),
)


class Clock:
    """Processor seconds, and MiB by which the peak rose, of parts that may come more than once."""

    def __init__(self) -> None:
        self.parts: dict[str, tuple[float, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start, low = time.process_time(), peak()
        yield
        seconds, memory = self.parts.get(name, (0.0, 0.0))
        self.parts[name] = seconds + time.process_time() - start, memory + peak() - low
        print(f"  {name}: {self.parts[name][0]:.1f} s", file=sys.stderr, flush=True)

    def timed(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def instead(*arguments: Any, **how: Any) -> Any:
            with self.part(name):
                return call(*arguments, **how)

        return instead


def distinct_pairs(count: int) -> PromptPairs:
    """Pairs of the shipped split, evenly over the categories."""
    every = list(scenarios("shipped"))
    if count > len(every):
        raise SystemExit(f"--pairs {count}: the grammar has {len(every)} at most")
    chosen = (every[i * len(every) // count] for i in range(count))
    pairs = tuple(
        Pair(s.category.name, f"q{number:04d}", s.prompt("natural"), s.prompt("artifact"))
        for number, s in enumerate(sorted(chosen, key=lambda s: s.category.name))
    )
    assert len({(pair.natural, pair.artifact) for pair in pairs}) == count
    return PromptPairs(pairs, {}, source="the grammar")


def soak(count: int, folder: Path) -> tuple[Clock, dict[str, int]]:
    """Time a run of `count` pairs, and measure what it leaves."""
    clock, pairs = Clock(), distinct_pairs(count)
    with ExitStack() as patches:
        for owner, name, part in PARTS:
            patches.enter_context(
                patch.object(owner, name, clock.timed(getattr(owner, name), part))
            )
        start, before = time.process_time(), peak()
        found = Experiment(pairs=pairs, store=folder / "store").run()
        took = time.process_time() - start
    seconds, memory = map(sum, zip(*clock.parts.values(), strict=True))
    clock.parts["what lies between"] = took - seconds, peak() - before - memory
    assert len(found.analysis.scored) == count
    with clock.part("results file and plot"):
        found.write(folder, page=False)
    with clock.part("report"):
        page = found.page()
    with clock.part("scores of each layer, as failed checks show them"):
        scores = [plots.to_bytes(plots.separation_figure(found), "svg") for _ in found]
    return clock, {
        "store": sum(file.stat().st_size for file in folder.rglob("*.safetensors")),
        "results file": (folder / FILE_NAME).stat().st_size,
        "report.html": len(page.encode()),
        "scores of one layer": max(map(len, scores)),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("soak", __doc__)
    parser.add_argument("--pairs", type=int, default=2000, help="default: %(default)s")
    options = parser.parse_args(arguments)
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        clock, sizes = soak(options.pairs, Path(folder))
    print(f"{options.pairs:,} pairs, measured on {machine('NumPy', 'SciPy')}.\n")
    rows = [("imports", "", f"{before:,.0f}")]
    rows += [(name, f"{s:,.1f}", f"{memory:,.0f}") for name, (s, memory) in clock.parts.items()]
    whole = sum(seconds for seconds, _ in clock.parts.values())
    rows.append(("altogether", f"{whole:,.1f}", f"{peak():,.0f}"))
    print(table(("part", "processor seconds", "raises the peak by, MiB"), rows), end="\n\n")
    left = ((name, f"{size / 2**20:,.1f}") for name, size in sizes.items())
    print(table(("what is left", "MiB"), left))
    return 0


if __name__ == "__main__":
    sys.exit(main())
