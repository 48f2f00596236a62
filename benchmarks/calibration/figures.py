"""Measured figures, what is required of them, and the tables that they stand in."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from itertools import chain
from typing import ParamSpec

import numpy as np

from benchmarks.page import table

Setting = ParamSpec("Setting")


@dataclass(frozen=True)
class Range:
    """What a figure must be; a miss that the table's note explains does not fail the run."""

    low: float = -np.inf
    high: float = np.inf
    explained: bool = False

    def __str__(self) -> str:
        if np.isinf(self.low):
            return f"at most {self.high:g}"
        return f"at least {self.low:g}" if np.isinf(self.high) else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Figure:
    """A measured mean over runs, its Monte Carlo standard error, and what is required of it."""

    value: float
    error: float
    required: Range | None = None

    def reached(self, tolerance: float = 0.0) -> bool:
        """Whether the value lies in the required range, widened by `tolerance` of its errors."""
        if self.required is None:
            return True
        slack = tolerance * self.error
        return self.required.low - slack <= self.value <= self.required.high + slack

    def __str__(self) -> str:
        mark = "" if self.required is None else " ✓" if self.reached() else " ✗"
        if 0 < abs(self.value) < 1e-6:
            return f"{self.value:.0e}{mark}"
        digits = 3 if abs(self.value) < 10 else 1
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}{mark}"


Row = dict[str, Figure]
"""Figures of one setting, by name."""


@dataclass(frozen=True)
class Table:
    """Figures by setting (rows) and name (columns)."""

    title: str
    note: str
    rows: dict[str, Row]

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Every figure, under the names of its table, its row and its column."""
        for setting, row in self.rows.items():
            for name, figure in row.items():
                yield f"{self.title}: {setting}, {name}", figure

    def markdown(self) -> str:
        """Title, note, table and what was required, as a section of a page."""
        names = list(dict.fromkeys(chain.from_iterable(self.rows.values())))
        rows = [[label, *(row.get(n, "") for n in names)] for label, row in self.rows.items()]
        parts = [f"## {self.title}", self.note, table(["setting", *names], rows)]
        required = {
            f"{name} {figure.required}"
            for row in self.rows.values()
            for name, figure in row.items()
            if figure.required is not None
        }
        if required:
            parts.append(f"Required (✓ reached, ✗ missed): {'; '.join(sorted(required))}.")
        return "\n\n".join(parts) + "\n"


Run = dict[str, float | bool]
"""What one simulated run gives, by name."""


@dataclass(frozen=True)
class Runs:
    """All runs of one simulated setting."""

    runs: list[Run]

    def figure(self, name: str, required: Range | None = None) -> Figure:
        """Mean over the runs, a share where the values are true or false, and its error."""
        values = np.array([run[name] for run in self.runs])
        spread = values.astype(float).std(ddof=1)
        if values.dtype == bool:  # a share has an error even where all runs agree
            share = (values.sum() + 2) / (len(values) + 4)
            spread = np.sqrt(share * (1 - share))
        return Figure(float(values.mean()), float(spread / np.sqrt(len(values))), required)

    def row(self, required: Mapping[str, Range | None] | None = None) -> Row:
        """Every figure by its name, with what is required of it."""
        return {name: self.figure(name, (required or {}).get(name)) for name in self.runs[0]}


def gathered(experiment: Callable[Setting, Iterator[Run]]) -> Callable[Setting, Runs]:
    """The experiment with all of its runs in one `Runs`."""

    @wraps(experiment)
    def whole(*arguments: Setting.args, **named: Setting.kwargs) -> Runs:
        return Runs(list(experiment(*arguments, **named)))

    return whole


def generators(runs: int, *setting: object) -> Iterator[tuple[int, np.random.Generator]]:
    """Number and random generator of each run, independent between settings."""
    entropy = [zlib.crc32(str(part).encode()) for part in setting]
    for run, child in enumerate(np.random.SeedSequence(entropy).spawn(runs)):
        yield run, np.random.default_rng(child)
