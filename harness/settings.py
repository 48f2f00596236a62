"""What a run asks for, apart from its model and pairs; every default of the project stands here."""

from dataclasses import dataclass, field

from gemma_mlx import Positions, Sampling
from harness.defaults import ALPHA, LEVEL, MARGIN, REPLICATES, Scale


@dataclass(frozen=True)
class CollectSettings:
    """What to collect; every field is part of the run's key. Names as in `gemma_mlx.generate`.

    `layers` empty means all layers. `tensor_parallel` is the number of processes that hold the
    model together; it changes activations by rounding only.
    """

    sites: tuple[str, ...] = ("mlp_out",)
    layers: tuple[int, ...] = ()
    positions: Positions = "generated"
    max_tokens: int = 20
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
    replicates: int = REPLICATES
    level: float = LEVEL
    seed: int = 0


@dataclass(frozen=True)
class Criteria:
    """What a layer has to meet: d's interval above `d_threshold`, accuracy's interval above
    chance, family-wise p below `alpha`; against a saved run, a change of d within ±`margin`."""

    d_threshold: float = 0.8
    alpha: float = ALPHA
    margin: float = MARGIN
