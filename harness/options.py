"""The options, typed where they are declared; command line over ini file over default.

Read by the pytest plugin in everybody's runs, so nothing heavy is imported here.
"""

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, get_args

from gemma_mlx.errors import UserError
from gemma_mlx.request import Positions
from gemma_mlx.sites import OTHER_SITES, VECTOR_SITES
from gemma_mlx.system.files import folder_fault
from harness.data import embedded
from harness.defaults import MOST_LAYERS, Direction
from harness.settings import (
    COLUMNS,
    REPORT,
    STORE,
    AnalysisSettings,
    Backend,
    CausalSettings,
    CollectSettings,
    Criteria,
    TableSettings,
)

T = TypeVar("T")


class OptionError(UserError):
    """An option's value that can't be used; the message names the option."""


@dataclass(frozen=True)
class Option(Generic[T]):
    """One option.

    Attributes:
        name: as in `--artifact-<name>`, which exists everywhere; the ini key is
            `artifact_<name>`, with underscores.
        parse: the value of what was typed; a `ValueError` says what would be right.
        default: the value where nothing was typed.
        short: whether `harness.short_options` adds `--<name>` to pytest; the command line knows
            every option by both names.
        many: whether it may be repeated, or list several values in the ini file; `parse` then gets
            a list of texts.
    """

    name: str
    parse: Callable[[Any], T]
    default: T
    help: str
    metavar: str | None = None
    short: bool = True
    many: bool = False

    @property
    def flag(self) -> str:
        return f"--artifact-{self.name}"

    @property
    def short_flag(self) -> str:
        return f"--{self.name}"

    @property
    def dest(self) -> str:
        return f"artifact_{self.name.replace('-', '_')}"

    @property
    def is_switch(self) -> bool:
        return self.parse is bool

    @property
    def keywords(self) -> dict[str, Any]:
        """As argparse and pytest take them; None stands for what wasn't given."""
        action = "store_true" if self.is_switch else "append" if self.many else "store"
        metavar = {} if self.metavar is None else {"metavar": self.metavar}
        return {"dest": self.dest, "action": action, "default": None, **metavar}

    def read(self, given: "Given") -> T:
        """The option's value.

        Raises:
            OptionError: what was given can't be parsed.
        """
        text = self._text(given)
        if text is None:
            return self.default
        try:
            return self.parse(text)
        except ValueError as error:
            raise self.error(given, error) from None

    def error(self, given: "Given", reason: object) -> OptionError:
        """What is wrong with the value that was given."""
        text = self._text(given)
        shown = ", ".join(text) if self.many else text
        return OptionError(f"{given.spelling(self)} {shown!r}: {reason}")

    def _text(self, given: "Given") -> Any:
        """What was typed, or stands in the ini file; None if nothing."""
        text = given.getoption(self.dest)
        if text is None:
            text = given.getini(self.dest) or None
            if self.many and text is not None:
                text = text.replace(",", " ").split()
        # What argparse makes of `--option=--` before Python 3.13.
        if self.many and text is not None:
            return ["--" if each == [] else each for each in text]
        return "--" if text == [] else text


class Given(Protocol):
    """Where options are read from: a pytest configuration (`PytestOptions`) or a command line
    (`CommandLine`)."""

    def getoption(self, name: str) -> Any: ...
    def getini(self, name: str) -> Any: ...
    def spelling(self, option: Option[Any]) -> str:
        """The flag by which messages call an option."""


class CommandLine:
    """Options that were given to a command; a command takes some of them only."""

    def __init__(self, parsed: argparse.Namespace):
        self._parsed = parsed

    def getoption(self, name: str) -> Any:
        return getattr(self._parsed, name, None)

    def getini(self, name: str) -> Any:
        return None

    def spelling(self, option: Option[Any]) -> str:
        return option.short_flag

    def flags(self, options: Iterable[Option[Any]]) -> list[str]:
        """Flags of those options that were given."""
        return [self.spelling(o) for o in options if self.getoption(o.dest) is not None]


def add_arguments(parser: argparse.ArgumentParser, options: Iterable[Option[Any]]) -> None:
    """Add options to a command, under their short names and, unlisted, under their long ones."""
    for option in options:
        parser.add_argument(option.short_flag, help=option.help, **option.keywords)
        parser.add_argument(option.flag, help=argparse.SUPPRESS, **option.keywords)


def _whole(low: int) -> Callable[[Any], int]:
    def parse(text: Any) -> int:
        if not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", str(text)) or int(text) < low:
            raise ValueError(f"must be a whole number from {low}")
        return int(text)

    return parse


def _real(low: float, high: float, wanted: str) -> Callable[[Any], float]:
    def parse(text: Any) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (low < value < high):
            raise ValueError(f"must be {wanted}")
        return value

    return parse


def _one_of(choices: Iterable[str]) -> Callable[[Any], Any]:
    known = tuple(choices)

    def parse(text: Any) -> Any:
        if text not in known:
            raise ValueError(f"choose from {', '.join(known)}")
        return text

    return parse


def _some_of(choices: Iterable[str]) -> Callable[[Any], Any]:
    known = tuple(choices)
    one = _one_of(known)

    def parse(texts: Any) -> Any:
        if not texts:
            raise ValueError(f"choose from {', '.join(known)}")
        for text in texts:
            try:
                one(text)
            except ValueError as error:
                raise ValueError(f"{text!r}: {error}" if len(texts) > 1 else str(error)) from None
        return tuple(dict.fromkeys(texts))

    return parse


def _columns(text: Any) -> tuple[str, ...]:
    chosen: tuple[str, ...] = _some_of(COLUMNS)(text.replace(",", " ").split())
    return chosen


def parse_layers(text: Any) -> tuple[int, ...]:
    """Layer numbers, ascending, from e.g. "0-5,12"."""
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", part)
        if not match:
            raise ValueError("give layers as 6, or 0-5,12")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f"{first}-{last} runs backwards")
        # A slip of the pen makes no range of a billion.
        if last >= MOST_LAYERS:
            raise ValueError(f"layer {last} doesn't exist in any model")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def _path(text: Any) -> Path:
    if not str(text).strip():
        raise ValueError("name a folder")
    return Path(text)


Inconclusive = Literal["fail", "skip"]
_MORE = "may be repeated"

MODEL = Option(
    "model", str, embedded.MODEL,
    f"checkpoint folder, .gguf file, owner/name on the Hugging Face hub, or an embedded model: "
    f"{', '.join(embedded.MODELS)} (default: {embedded.MODEL})",
    "PATH_OR_REPO",
)  # fmt: skip
REVISION: Option[str | None] = Option(
    "revision", str, None, "branch, tag or commit of a hub repository", "REV"
)
ADAPTER: Option[str | None] = Option(
    "adapter", str, None,
    "folder or hub repository of an adapter (mlx-lm's or PEFT's) that was trained on the model, or "
    f"an embedded one: {', '.join(embedded.ADAPTERS)}",
    "PATH_OR_REPO",
)  # fmt: skip
BACKEND: Option[Backend | None] = Option(
    "backend", _one_of(get_args(Backend)), None,
    "what computes the model: gemma (this package's Gemma 2 and 3) or mlx_lm (default: gemma for "
    "these, mlx_lm for every other architecture)", "WHICH",
)  # fmt: skip
CHAT_TEMPLATE: Option[Path | None] = Option(
    "chat-template", Path, None,
    "Jinja file to use in place of the adapter's or the model's chat template", "FILE",
)  # fmt: skip
PAIRS = Option(
    "pairs", Path, embedded.PAIRS, "prompt pairs file (default: the embedded one)", "FILE"
)
SITE = Option[tuple[str, ...]](
    "site", _some_of((*VECTOR_SITES, *OTHER_SITES)), CollectSettings.sites,
    f"where to capture: {', '.join(VECTOR_SITES)}; in architectures that have them also "
    f"{', '.join(OTHER_SITES)} (default: {', '.join(CollectSettings.sites)}); {_MORE}",
    "SITE", many=True,
)  # fmt: skip
LAYERS: Option[tuple[int, ...] | None] = Option(
    "layers", parse_layers, None, "layers to check, e.g. 6 or 0-5,12 (default: all)", "LAYERS"
)
POSITIONS = Option[tuple[Positions, ...]](
    "positions", _some_of(get_args(Positions)), (CollectSettings.positions,),
    f"tokens to capture: {', '.join(get_args(Positions))} (default: {CollectSettings.positions}); "
    f"{_MORE}: the first is what the checks are about, the others get checks of their own",
    "WHICH", many=True,
)  # fmt: skip
MAX_TOKENS = Option(
    "max-tokens", _whole(1), CollectSettings.max_tokens,
    f"tokens to generate per prompt (default: {CollectSettings.max_tokens}); to see refusals that "
    "come late in an answer takes 100 or more", "N",
)  # fmt: skip
NO_CHAT = Option(
    "no-chat", bool, not CollectSettings.chat,
    "give prompts to the model without its chat template, as base models want",
)  # fmt: skip
TENSOR_PARALLEL = Option(
    "tensor-parallel", _whole(1), CollectSettings.tensor_parallel,
    "processes of one `mlx.launch` that hold the model together, for a model too large for one "
    f"machine (default: {CollectSettings.tensor_parallel})", "N",
)  # fmt: skip
BASE_MODEL: Option[str | None] = Option(
    "base-model", str, None,
    "check what the model has beyond this one, on the same pairs (default: with --adapter the "
    "model without it, for an embedded model what it was trained from; none: nothing)",
    "PATH_OR_REPO",
)  # fmt: skip
OPENINGS = Option(
    "openings", bool, False,
    "measure, too, how likely the model is to begin with an evasion, after each prompt",
)  # fmt: skip
DIRECTION: Option[Direction] = Option(
    "direction", _one_of(get_args(Direction)), AnalysisSettings.direction,
    "what pairs are scored along: mean, the mean difference of the other pairs; or shrinkage, "
    "which takes into account that dimensions vary together; choose before looking "
    f"(default: {AnalysisSettings.direction})", "WHICH",
)  # fmt: skip
BEHAVIOURS = Option(
    "behaviours", Path, embedded.BEHAVIOURS,
    "patterns that say which responses evade (default: the embedded ones, for English)", "FILE",
)  # fmt: skip
ALPHA = Option(
    "alpha", _real(0, 0.5, "a number above 0 and below 0.5"), Criteria.alpha,
    f"family-wise significance level (default: {Criteria.alpha})", "ALPHA",
)  # fmt: skip
D_THRESHOLD = Option(
    "d-threshold", _real(float("-inf"), float("inf"), "a finite number"), Criteria.d_threshold,
    f"d that a layer's interval must lie above (default: {Criteria.d_threshold})", "D",
)  # fmt: skip
REPLICATES = Option(
    "replicates", _whole(100), AnalysisSettings.replicates,
    f"sign flips and bootstrap replicates (default: {AnalysisSettings.replicates})", "N",
)  # fmt: skip
STATS_SEED = Option(
    "stats-seed", _whole(0), AnalysisSettings.seed,
    f"seed of the resampling (default: {AnalysisSettings.seed})", "SEED",
)  # fmt: skip
DIRECTIONS = Option(
    "random-directions", _whole(1), CausalSettings.directions,
    "random directions that interventions (-m causal) hold each layer's own against "
    f"(default: {CausalSettings.directions})", "N", short=False,
)  # fmt: skip
RECOLLECT = Option("recollect", bool, False, "collect anew what the store already has")
STORE_FOLDER = Option(
    "store", _path, STORE, f"where activations are kept and reused (default: {STORE})", "DIR",
    short=False,
)  # fmt: skip
SAVE: Option[str | None] = Option(
    "save", str, None, "keep this run as a baseline in .artifact_baselines/, under the next number",
    "NAME", short=False,
)  # fmt: skip
COMPARE: Option[str | None] = Option(
    "compare", str, None, "compare with a baseline: its name (the latest), number or file",
    "NAME_OR_PATH", short=False,
)  # fmt: skip
MARGIN = Option(
    "margin", _real(0, float("inf"), "a finite number above 0"), Criteria.margin,
    f"largest change of d that counts as none (default: {Criteria.margin})", "D", short=False,
)  # fmt: skip
COSINE = Option(
    "cosine", _real(-1, 1, "a number between -1 and 1"), Criteria.cosine,
    "smallest cosine between the baseline's direction and this run's that counts as the same "
    f"(default: {Criteria.cosine})", "C", short=False,
)  # fmt: skip
PARTIAL = Option(
    "partial", bool, Criteria.partial,
    "compare with a baseline that has more layers or sites than are looked at", short=False,
)  # fmt: skip
NOISE = Option(
    "noise", bool, False,
    "collect a second time, in other batches, to see how much of a change is noise; kept with a "
    "baseline",
    short=False,
)  # fmt: skip
INCONCLUSIVE: Option[Inconclusive] = Option(
    "inconclusive", _one_of(get_args(Inconclusive)), "fail",
    "what an inconclusive comparison does: fail or skip (default: fail)", "HOW", short=False,
)  # fmt: skip
SHOWN_COLUMNS = Option(
    "columns", _columns, TableSettings.columns,
    f"figures of the terminal's table, of {', '.join(COLUMNS)} "
    f"(default: {','.join(TableSettings.columns)})", "NAMES", short=False,
)  # fmt: skip
SORT: Option[str] = Option(
    "sort", _one_of(("layer", *COLUMNS)), TableSettings.sort,
    f"column to sort that table by (default: {TableSettings.sort})", "NAME", short=False,
)  # fmt: skip
REPORT_FOLDER = Option(
    "report", _path, REPORT, f"where the report, plot and results go (default: {REPORT})", "DIR",
    short=False,
)  # fmt: skip

OPTIONS: tuple[Option[Any], ...] = (
    MODEL, REVISION, ADAPTER, BACKEND, CHAT_TEMPLATE, PAIRS, SITE, LAYERS, POSITIONS, MAX_TOKENS,
    NO_CHAT, TENSOR_PARALLEL, BASE_MODEL, BEHAVIOURS, OPENINGS, DIRECTION, ALPHA, D_THRESHOLD,
    REPLICATES, STATS_SEED, DIRECTIONS, STORE_FOLDER, SAVE, COMPARE, MARGIN, COSINE, PARTIAL, NOISE,
    INCONCLUSIVE, SHOWN_COLUMNS, SORT, RECOLLECT, REPORT_FOLDER,
)  # fmt: skip

#: What to put to which model, and how; not with activations that are read from files.
TO_COLLECT: tuple[Option[Any], ...] = (
    MODEL, REVISION, ADAPTER, BACKEND, CHAT_TEMPLATE, PAIRS, SITE, POSITIONS, MAX_TOKENS, NO_CHAT,
    TENSOR_PARALLEL, BEHAVIOURS,
)  # fmt: skip


def analysis_settings(given: Given) -> AnalysisSettings:
    """How to estimate."""
    return AnalysisSettings(
        direction=DIRECTION.read(given),
        replicates=REPLICATES.read(given),
        seed=STATS_SEED.read(given),
    )


def criteria(given: Given) -> Criteria:
    """What a layer has to meet."""
    return Criteria(
        d_threshold=D_THRESHOLD.read(given),
        alpha=ALPHA.read(given),
        margin=MARGIN.read(given),
        cosine=COSINE.read(given),
        partial=PARTIAL.read(given),
    )


def causal_settings(given: Given) -> CausalSettings:
    """How to intervene.

    Raises:
        OptionError: so few directions give no p below alpha.
    """
    directions, alpha = DIRECTIONS.read(given), ALPHA.read(given)
    needed = int(1 / alpha)
    if 1 / (needed + 1) >= alpha:
        needed += 1
    if directions < needed:
        raise OptionError(
            f"{given.spelling(DIRECTIONS)} {directions}: no p among so few can be below "
            f"{given.spelling(ALPHA)} {alpha:g}; {needed} would do"
        )
    return CausalSettings(directions)


def table_settings(given: Given) -> TableSettings:
    """How the terminal's table looks."""
    return TableSettings(columns=SHOWN_COLUMNS.read(given), sort=SORT.read(given))


def report_folder(given: Given) -> Path:
    """Where a run's files go.

    Raises:
        OptionError: no file can be written there.
    """
    folder = REPORT_FOLDER.read(given)
    if fault := folder_fault(folder):
        raise OptionError(f"{given.spelling(REPORT_FOLDER)} {folder}: {fault}")
    return folder
