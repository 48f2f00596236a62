"""How often another resampling seed gives another verdict.

    python -m benchmarks.flakiness                  200 seeds, both checkpoints: some minutes
    python -m benchmarks.flakiness --seeds 20

Activations are collected once per checkpoint; only `--stats-seed` differs. Every criterion of the
default checks and the controls beside them is judged at every layer with every seed. Prints
Markdown; --write puts it into docs/calibration.md.
"""

import math
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from tqdm import tqdm

import harness
from benchmarks.calibration.page import OTHER_SEEDS
from benchmarks.page import ROOT, command_line, split, table
from harness.analysis.judges import CRITERIA, crosses_categories
from harness.analysis.layers import Analysis, LayerResult
from harness.analysis.verdict import CLOSE, Outcome, Verdict
from harness.settings import Criteria
from harness.stats import separation

CHECKPOINTS = ("tiny-gemma3-aligned", "tiny-gemma3-base")
PAGE = ROOT / "docs" / "calibration.md"

Judge = Callable[[LayerResult, Criteria], Verdict]
JUDGES: Mapping[str, Judge] = {**CRITERIA, "across categories": crosses_categories}


@dataclass
class Found:
    """One criterion of one layer over the seeds."""

    outcomes: list[Outcome] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)

    @property
    def flips(self) -> int:
        """Seeds whose verdict isn't the commonest one."""
        return len(self.outcomes) - max(Counter(self.outcomes).values())

    def __str__(self) -> str:
        outcome = Counter(self.outcomes).most_common(1)[0][0]
        nearest = min(self.distances)
        away = "" if math.isinf(nearest) else f" {nearest:,.0f}"
        flipped = f", **{self.flips} flips**" if self.flips else ""
        return f"{outcome}{away}{flipped}"


Seeds = list[list[LayerResult]]
"""A checkpoint's layers as each seed gives them."""


def with_seeds(analysis: Analysis, seeds: int) -> Seeds:
    """The analysis with other seeds; what doesn't depend on them is kept."""
    settings, measured = analysis.settings, analysis.activations
    every = []
    for seed in tqdm(range(seeds), desc="resampling", unit="seed", disable=None):
        found = separation(
            measured.artifact,
            measured.natural,
            scale=settings.scale,
            permutations=settings.replicates,
            bootstrap=settings.replicates,
            level=settings.level,
            seed=seed,
            clusters=measured.clusters,
        )
        layers = zip(analysis.values(), found, strict=True)
        every.append([replace(result, separation=s) for result, s in layers])
        assert seed != settings.seed or every[-1] == list(analysis.values())
    return every


def judged(every: Seeds) -> dict[str, dict[str, Found]]:
    """By layer and criterion."""
    found = {result.id: {name: Found() for name in JUDGES} for result in every[0]}
    for result in chain.from_iterable(every):
        for name, judge in JUDGES.items():
            verdict = judge(result, Criteria())
            found[result.id][name].outcomes.append(verdict.outcome)
            found[result.id][name].distances.append(verdict.distance)
    return found


def spread(every: Seeds) -> tuple[list[float], list[float]]:
    """Of each layer, how much the ends of d's interval, and a p that isn't the smallest there is,
    differ between seeds, as multiples of their mean stated error."""
    ends, p = [], []
    for layer in zip(*every, strict=True):
        found = [result.separation for result in layer]
        low = np.std([s.d_interval[0] for s in found], ddof=1)
        ends.append(float(low / np.mean([s.d_interval_se for s in found])))
        if np.mean([s.p_adjusted for s in found]) > 0.001:
            differ = np.std([s.p_adjusted for s in found], ddof=1)
            p.append(float(differ / np.mean([s.p_adjusted_se for s in found])))
    return ends, p


def markdown(checkpoints: Mapping[str, Seeds]) -> str:
    judgements = {name: judged(every) for name, every in checkpoints.items()}
    seeds = len(next(iter(checkpoints.values())))
    every = [f for layers in judgements.values() for row in layers.values() for f in row.values()]
    flips = sum(found.flips for found in every)
    close = sum(min(found.distances) <= CLOSE for found in every)
    ends, p = map(_range, zip(*map(spread, checkpoints.values()), strict=True))
    text = (
        f"The default checks and their controls, {seeds} times on the same activations, only "
        "`--stats-seed` differing (`python -m benchmarks.flakiness --write`). Of "
        f"{len(every) * seeds:,} verdicts {flips} differ from the commonest one of their layer and "
        f"criterion; with some seed, {close} of the {len(every)} lie within {CLOSE} Monte Carlo "
        "errors of a threshold. The number is how many Monte Carlo errors the nearest threshold is "
        "away with the seed that comes nearest. Across the "
        "categories nothing is drawn anew here."
    )
    honest = (
        "The errors are what they say: over the seeds the ends of d's intervals spread by "
        f"{ends} times their mean stated error from layer to layer, family-wise p-values above "
        f"0.001 by {p} times theirs."
    )
    tables = (
        table([name, *JUDGES], ([id, *row.values()] for id, row in layers.items()))
        for name, layers in judgements.items()
    )
    parts = (f"## {OTHER_SEEDS}", _wrapped(text), _wrapped(honest), *tables)
    return "\n\n".join(parts) + "\n"


def _range(ratios: Iterable[list[float]]) -> str:
    every = list(chain.from_iterable(ratios))
    return f"{min(every):.2f} to {max(every):.2f}" if every else "none"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_on_hyphens=False)


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("flakiness", __doc__)
    parser.add_argument("--seeds", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help=f"into docs/{PAGE.name}, too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as store:
        checkpoints = {
            name: with_seeds(harness.analyze(name, store=store).analysis, options.seeds)
            for name in CHECKPOINTS
        }
    section = markdown(checkpoints)
    print(section)
    if options.write:
        PAGE.write_text(f"{split(PAGE, OTHER_SEEDS)[0]}\n{section}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
