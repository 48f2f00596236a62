"""What a run asks for, apart from its model and pairs. Every default of the project stands here.

The pytest plugin reads it in everybody's runs, so nothing heavy is imported.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from gemma_mlx.errors import RequestError
from gemma_mlx.request import Positions, Request, Sampling
from harness.defaults import (
    ALPHA,
    COSINE,
    DIRECTIONS,
    LEVEL,
    MARGIN,
    REPLICATES,
    Direction,
    Scale,
)

#: What computes a model: `gemma_mlx`, which has Gemma 2 and 3, or mlx-lm.
Backend = Literal["gemma", "mlx_lm"]


def _require(settings: object, limits: Iterable[tuple[str, bool, str]]) -> None:
    for name, good, wanted in limits:
        if not good:
            raise RequestError(f"{name} must be {wanted}, not {getattr(settings, name)!r}")


def _whole(value: object, low: int) -> bool:
    return type(value) is int and value >= low


@dataclass(frozen=True)
class CollectSettings:
    """What to collect; every field is part of the run's key. Names as in `gemma_mlx.generate`.

    `layers` empty means all layers. `tensor_parallel` is the number of processes that hold the
    model together; it changes activations by rounding only.
    """

    sites: tuple[str, ...] = Request.sites
    layers: tuple[int, ...] = ()
    positions: Positions = Request.positions
    max_tokens: int = Request.max_tokens
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    batch_size: int | None = None
    chat: bool = True
    dtype: str | None = None
    tensor_parallel: int = 1


@dataclass(frozen=True)
class AnalysisSettings:
    """How to estimate; see `harness.stats.separation`.

    Raises:
        RequestError: a value that can't be used, by its name.
    """

    scale: Scale = "sd"
    direction: Direction = "mean"
    replicates: int = REPLICATES
    level: float = LEVEL
    seed: int = 0

    def __post_init__(self) -> None:
        _require(
            self,
            (
                ("scale", self.scale in get_args(Scale), " or ".join(get_args(Scale))),
                (
                    "direction",
                    self.direction in get_args(Direction),
                    " or ".join(get_args(Direction)),
                ),
                ("replicates", _whole(self.replicates, 100), "an integer, 100 or more"),
                ("level", 0 < self.level < 1, "between 0 and 1, for example 0.95"),
                ("seed", _whole(self.seed, 0), "an integer, 0 or more"),
            ),
        )


@dataclass(frozen=True)
class CausalSettings:
    """How to intervene; see `harness.analysis.causality.causal_effects`.

    Raises:
        RequestError: fewer than one direction.
    """

    directions: int = DIRECTIONS

    def __post_init__(self) -> None:
        _require(self, [("directions", _whole(self.directions, 1), "an integer, 1 or more")])


@dataclass(frozen=True)
class Criteria:
    """What a layer has to meet: d's lower bound above `d_threshold`, accuracy's above chance,
    family-wise p below `alpha`; against a saved run, a change of d within ±`margin` and a cosine
    between the directions above `cosine`, at all of its layers and sites unless `partial`.

    Raises:
        RequestError: a value that can't be used, by its name.
    """

    d_threshold: float = 0.8
    alpha: float = ALPHA
    margin: float = MARGIN
    cosine: float = COSINE
    partial: bool = False

    def __post_init__(self) -> None:
        _require(
            self,
            (
                ("d_threshold", math.isfinite(self.d_threshold), "a finite number"),
                ("alpha", 0 < self.alpha < 0.5, "above 0 and below 0.5"),
                ("margin", 0 < self.margin < math.inf, "a finite number above 0"),
                ("cosine", -1 < self.cosine < 1, "between -1 and 1"),
            ),
        )


#: Figures of a layer that tables can show; what each is stands in `harness.report.tables`.
COLUMNS = (
    "d", "accuracy", "p", "p_layer", "d_error", "p_error", "same_words", "beyond_base",
    "beyond_base_same_words", "agreement", "d_z", "auroc", "paired_accuracy", "in_sample_d",
    "in_sample_accuracy", "seed_ratio",
)  # fmt: skip


@dataclass(frozen=True)
class TableSettings:
    """The terminal's table: its figures, and the one that rows are sorted by ("layer" for none)."""

    columns: tuple[str, ...] = ("d", "accuracy", "p", "same_words")
    sort: str = "layer"


#: Folders in the working directory: activations that are kept, saved runs, the last run's report.
STORE = Path(".artifact_store")
BASELINES = Path(".artifact_baselines")
REPORT = Path("artifact_report")

#: What is said where a signal ended the work.
INTERRUPTED = (
    "interrupted; what was finished is kept, and the same command, without --artifact-recollect, "
    "goes on from there"
)
