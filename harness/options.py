"""The plugin's options: command line over ini file over default."""

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import pytest

from gemma_mlx import VECTOR_SITES, Positions
from harness.experiment import EMBEDDED_MODEL, EMBEDDED_PAIRS, STORE
from harness.report.tables import COLUMNS, DEFAULT_COLUMNS


@dataclass(frozen=True, slots=True)
class Option:
    """One option `--name`, which the ini file spells `artifact_<name>`."""

    flag: str
    default: str | None
    help: str
    metavar: str | None = None
    action: str = "store"

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").removeprefix("artifact-").replace("-", "_")

    @property
    def dest(self) -> str:
        return f"artifact_{self.name}"

    @property
    def keywords(self) -> dict[str, Any]:
        """As argparse and pytest take them; None stands for what wasn't given."""
        metavar = {} if self.metavar is None else {"metavar": self.metavar}
        return {
            "dest": self.dest, "action": self.action, "default": None, "help": self.help, **metavar,
        }  # fmt: skip


OPTIONS = (
    Option(
        "--model",
        str(EMBEDDED_MODEL),
        "checkpoint folder, or owner/name on the Hugging Face hub (default: the embedded model)",
        "PATH_OR_REPO",
    ),
    Option("--revision", None, "branch, tag or commit of a hub repository", "REV"),
    Option(
        "--pairs",
        str(EMBEDDED_PAIRS),
        "prompt pairs file (default: the embedded one)",
        "FILE",
    ),
    Option(
        "--site",
        "mlp_out",
        f"where to capture: {', '.join(VECTOR_SITES)}; may be repeated",
        "SITE",
        "append",
    ),
    Option("--layers", None, "layers to check, e.g. 6 or 0-5,12 (default: all)", "LAYERS"),
    Option(
        "--positions",
        "generated",
        f"tokens to capture: {', '.join(get_args(Positions))} (default: generated); may be "
        "repeated: the first is what the checks are about, the others get checks of their own",
        "WHICH",
        "append",
    ),
    Option("--max-tokens", "20", "tokens to generate per prompt (default: 20)", "N"),
    Option(
        "--no-chat",
        None,
        "give prompts to the model without its chat template, as base models want",
        action="store_true",
    ),
    Option(
        "--tensor-parallel",
        "1",
        "processes of one `mlx.launch` that hold the model together, for a model too large for one "
        "machine (default: 1)",
        "N",
    ),
    Option(
        "--base-model",
        None,
        "check what the model has beyond this one, on the same pairs",
        "PATH_OR_REPO",
    ),
    Option(
        "--text-baselines",
        None,
        "check what the model has beyond words and lengths",
        action="store_true",
    ),
    Option("--alpha", "0.05", "family-wise significance level (default: 0.05)", "ALPHA"),
    Option("--d-threshold", "0.8", "d that a layer's interval must lie above (default: 0.8)", "D"),
    Option(
        "--replicates",
        "10000",
        "sign flips and bootstrap replicates (default: 10000)",
        "N",
    ),
    Option("--stats-seed", "0", "seed of the resampling (default: 0)", "SEED"),
    Option(
        "--artifact-store",
        str(STORE),
        "where activations are kept and reused (default: .artifact_store)",
        "DIR",
    ),
    Option(
        "--artifact-save",
        None,
        "keep this run as a baseline in .artifact_baselines/, under the next number",
        "NAME",
    ),
    Option(
        "--artifact-compare",
        None,
        "compare with a baseline: its name (the latest), number or file",
        "NAME_OR_PATH",
    ),
    Option(
        "--artifact-margin",
        "0.5",
        "largest change of d that counts as none (default: 0.5)",
        "D",
    ),
    Option(
        "--artifact-inconclusive",
        "fail",
        "what an inconclusive comparison does: fail or skip (default: fail)",
        "HOW",
    ),
    Option(
        "--artifact-columns",
        ",".join(DEFAULT_COLUMNS),
        f"figures of the terminal's table, of {', '.join(COLUMNS)} "
        f"(default: {','.join(DEFAULT_COLUMNS)})",
        "NAMES",
    ),
    Option(
        "--artifact-sort",
        "layer",
        "column to sort that table by (default: layer)",
        "NAME",
    ),
    Option("--recollect", None, "collect anew what the store already has", action="store_true"),
    Option(
        "--artifact-report",
        "artifact_report",
        "where the report, plot and results go (default: artifact_report)",
        "DIR",
    ),
)


class Config(Protocol):
    """What is read of a `pytest.Config`."""

    def getoption(self, name: str) -> Any: ...
    def getini(self, name: str) -> Any: ...


class CommandLine:
    """The same options on a command line without pytest, and so without an ini file."""

    def __init__(self, parsed: argparse.Namespace):
        self._parsed = parsed

    def getoption(self, name: str) -> Any:
        # A command takes some of the options only.
        return getattr(self._parsed, name, None)

    def getini(self, name: str) -> Any:
        return None


def given(parsed: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Flags of those options that were given."""
    return [
        option.flag
        for option in OPTIONS
        if option.name in names and getattr(parsed, option.dest) is not None
    ]


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add some of the options to a command."""
    for option in OPTIONS:
        if option.name in names:
            parser.add_argument(option.flag, **option.keywords)


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("artifacts", "alignment artifacts (each also an ini key, artifact_…)")
    for option in OPTIONS:
        group.addoption(option.flag, **option.keywords)
        kind: Literal["bool", "string"] = "bool" if option.action == "store_true" else "string"
        parser.addini(option.dest, option.help, type=kind, default=None)


def read(config: Config, name: str) -> Any:
    """An option's value: text, a list of texts for `site`, or a bool."""
    option = next(option for option in OPTIONS if option.name == name)
    value = config.getoption(option.dest)
    if value is None:
        value = config.getini(option.dest) or option.default
        if option.action == "append":
            value = str(value).replace(",", " ").split()
    return bool(value) if option.action == "store_true" else value


def number(config: Config, name: str, *, low: float, high: float, whole: bool) -> float:
    """A numeric option; a `UsageError` names it and its range."""
    text = read(config, name)
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        what = "a whole number" if whole else "a number"
        flag = next(option.flag for option in OPTIONS if option.name == name)
        bounds = f"from {low:g}" + (f" to {high:g}" if high < float("inf") else "")
        raise pytest.UsageError(f"{flag} must be {what} {bounds}, not {text!r}")
    return value


def columns(config: Config) -> tuple[tuple[str, ...], str]:
    """The table's columns and the one to sort by; a `UsageError` names one that isn't there."""
    chosen = tuple(str(read(config, "columns")).replace(",", " ").split())
    sort = str(read(config, "sort"))
    for flag, names, more in (
        ("--artifact-columns", chosen, ()),
        ("--artifact-sort", (sort,), ("layer",)),
    ):
        for name in names:
            if name not in (*more, *COLUMNS):
                raise pytest.UsageError(
                    f"{flag} {name!r}: choose from {', '.join((*more, *COLUMNS))}"
                )
    return chosen, sort


def parse_layers(text: str | None, count: int) -> tuple[int, ...]:
    """Layers of a model with `count` layers from e.g. "0-5,12"; all where text is None."""
    if text is None:
        return tuple(range(count))
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", part)
        if not match:
            raise pytest.UsageError(f"--layers {text!r}: give layers as 6, or 0-5,12")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise pytest.UsageError(f"--layers {text!r}: {first}-{last} runs backwards")
        if last >= count:
            raise pytest.UsageError(
                f"--layers {text!r}: layer {last} doesn't exist; the model has layers 0 to "
                f"{count - 1}"
            )
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))
