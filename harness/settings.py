"""What a run asks for, apart from its model and pairs. Every default of the project stands here.

The pytest plugin reads it in everybody's runs, so nothing heavy is imported.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
    """How to estimate; see `harness.stats.separation`."""

    scale: Scale = "sd"
    direction: Direction = "mean"
    replicates: int = REPLICATES
    level: float = LEVEL
    seed: int = 0


@dataclass(frozen=True)
class CausalSettings:
    """How to intervene; see `harness.analysis.causality.causal_effects`."""

    directions: int = DIRECTIONS


@dataclass(frozen=True)
class Criteria:
    """What a layer has to meet: d's lower bound above `d_threshold`, accuracy's above chance,
    family-wise p below `alpha`; against a saved run, a change of d within ±`margin` and a cosine
    between the directions above `cosine`, at all of its layers and sites unless `partial`."""

    d_threshold: float = 0.8
    alpha: float = ALPHA
    margin: float = MARGIN
    cosine: float = COSINE
    partial: bool = False


#: Figures of a layer that tables can show; what each is stands in `harness.report.tables`.
COLUMNS = (
    "d", "accuracy", "p", "p_layer", "d_error", "p_error", "same_words", "beyond_base",
    "agreement", "d_z", "auroc", "paired_accuracy", "in_sample_d", "in_sample_accuracy",
    "seed_ratio",
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
