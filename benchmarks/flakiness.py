"""How often another resampling seed gives another verdict.

    python -m benchmarks.flakiness                  200 seeds, both checkpoints: some minutes
    python -m benchmarks.flakiness --seeds 20

Activations are collected once per checkpoint; only `--stats-seed` differs. Every criterion of the
default checks and the controls beside them is judged at every layer with every seed. Prints
Markdown, and puts it in place of the section of that title in docs/calibration.md with --write.
"""

import argparse
import math
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

import harness
from harness.analysis import Analysis, LayerResult
from harness.stats import separation
from harness.verdict import (
    CRITERIA,
    Criteria,
    Outcome,
    Verdict,
    crosses_categories,
    shuffled_labels,
)

ROOT = Path(__file__).parents[1]
CHECKPOINTS = ("tiny-gemma3-aligned", "tiny-gemma3-base")
PAGE = ROOT / "docs" / "calibration.md"
TITLE = "Another seed, another verdict?"

Judge = Callable[[LayerResult], Verdict]
JUDGES: Mapping[str, Judge] = {
    **{name: partial(judge, criteria=Criteria()) for name, judge in CRITERIA.items()},
    "shuffled labels": shuffled_labels,
    "category transfer": crosses_categories,
}


@dataclass
class Found:
    """One criterion of one layer over the seeds."""

    outcomes: list[Outcome] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    @property
    def flips(self) -> int:
        """Seeds whose verdict isn't the commonest one."""
        return len(self.outcomes) - max(Counter(self.outcomes).values())

    def __str__(self) -> str:
        outcome = Counter(self.outcomes).most_common(1)[0][0]
        nearest = min(self.margins)
        away = "" if math.isinf(nearest) else f" {nearest:,.0f}"
        flipped = f", **{self.flips} flips**" if self.flips else ""
        return f"{outcome}{away}{flipped}"


def with_seeds(analysis: Analysis, seeds: int) -> Iterator[list[LayerResult]]:
    """The analysis's layers as each seed gives them; what doesn't depend on it is kept."""
    settings, measured = analysis.settings, analysis.activations
    for seed in tqdm(range(seeds), desc="resampling", unit="seed", disable=None):
        found = separation(
            measured.artifact,
            measured.natural,
            scale=settings.scale,
            permutations=settings.replicates,
            bootstrap=settings.replicates,
            level=settings.level,
            seed=seed,
        )
        results = [
            replace(result, separation=s)
            for result, s in zip(analysis.values(), found, strict=True)
        ]
        assert seed != settings.seed or results == list(analysis.values())
        yield results


def judged(analysis: Analysis, seeds: int) -> dict[str, dict[str, Found]]:
    """By layer and criterion."""
    table = {result.id: {name: Found() for name in JUDGES} for result in analysis.values()}
    for results in with_seeds(analysis, seeds):
        for result in results:
            for name, judge in JUDGES.items():
                verdict = judge(result)
                table[result.id][name].outcomes.append(verdict.outcome)
                table[result.id][name].margins.append(verdict.margin)
    return table


def markdown(tables: Mapping[str, Mapping[str, Mapping[str, Found]]], seeds: int) -> str:
    every = [f for table in tables.values() for row in table.values() for f in row.values()]
    flips = sum(found.flips for found in every)
    close = sum(min(found.margins) <= 3 for found in every)
    lines = [
        f"## {TITLE}",
        "",
        f"The default checks and their controls, {seeds} times on the same activations, only "
        "`--stats-seed` differing (`python -m benchmarks.flakiness`). Of "
        f"{len(every) * seeds:,} verdicts {flips} differ from the commonest of their layer and "
        f"criterion; {close} of {len(every)} lie within 3 Monte Carlo errors of a threshold with "
        "any seed. The number is how many Monte Carlo errors the nearest threshold is away with "
        "the seed that comes nearest; accuracy and transfer are in closed form and have none.",
    ]
    for name, table in tables.items():
        lines += [
            "",
            f"| {name} | {' | '.join(JUDGES)} |",
            f"|---|{'---|' * len(JUDGES)}",
            *(f"| {id} | {' | '.join(map(str, row.values()))} |" for id, row in table.items()),
        ]
    return "\n".join(lines) + "\n"


def write(section: str, page: Path) -> None:
    """Put the section in place of the one of its title, or at the end."""
    text = page.read_text(encoding="utf-8")
    old = re.compile(rf"^## {re.escape(TITLE)}\n.*?(?=^## |\Z)", re.M | re.S)
    text = old.sub("", text).rstrip("\n")
    page.write_text(f"{text}\n\n{section}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flakiness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help=f"into docs/{PAGE.name}, too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as store:
        tables = {
            name: judged(harness.analyze(ROOT / "fixtures" / name, store=store), options.seeds)
            for name in CHECKPOINTS
        }
    section = markdown(tables, options.seeds)
    print(section)
    if options.write:
        write(section, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
