"""Measured figures, what is required of them, and the tables that they stand in."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np


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


@dataclass(frozen=True)
class Table:
    """Figures by setting (rows) and name (columns)."""

    title: str
    note: str
    rows: dict[str, dict[str, Figure]]

    def figures(self) -> Iterator[tuple[str, Figure]]:
        for setting, row in self.rows.items():
            for name, figure in row.items():
                yield f"{self.title}: {setting}, {name}", figure

    def markdown(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        lines = [f"## {self.title}", "", self.note, ""]
        lines.append("| " + " | ".join(["setting", *names]) + " |")
        lines.append("|---" * (len(names) + 1) + "|")
        for setting, row in self.rows.items():
            cells = [str(row[name]) if name in row else "" for name in names]
            lines.append("| " + " | ".join([setting, *cells]) + " |")
        required = {
            f"{name} {figure.required}"
            for row in self.rows.values()
            for name, figure in row.items()
            if figure.required is not None
        }
        if required:
            lines += ["", f"Required (✓ reached, ✗ missed): {'; '.join(sorted(required))}."]
        return "\n".join(lines) + "\n"


@dataclass
class Runs:
    """Results of one simulated setting, one value per run, by name."""

    results: dict[str, list[float | bool]] = field(default_factory=dict)

    def add(self, **figures: float | bool) -> None:
        for name, value in figures.items():
            self.results.setdefault(name, []).append(value)

    def figure(self, name: str, required: Range | None = None) -> Figure:
        values = np.array(self.results[name])
        spread = values.astype(float).std(ddof=1)
        if values.dtype == bool:  # a share has an error even where all runs agree
            share = (values.sum() + 2) / (len(values) + 4)
            spread = np.sqrt(share * (1 - share))
        return Figure(float(values.mean()), float(spread / np.sqrt(len(values))), required)


def generators(runs: int, *setting: object) -> Iterator[tuple[int, np.random.Generator]]:
    """A generator for each run, independent between settings."""
    entropy = [zlib.crc32(str(part).encode()) for part in setting]
    for run, child in enumerate(np.random.SeedSequence(entropy).spawn(runs)):
        yield run, np.random.default_rng(child)
