"""What a run asks for, apart from its model and pairs; every default of the project stands here."""

from dataclasses import dataclass, field

from gemma_mlx.request import Positions, Request, Sampling
from harness.stats.kernels import Scale


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
    replicates: int = 10_000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Criteria:
    """What a layer has to meet: d's interval above `d_threshold`, accuracy's interval above
    chance, family-wise p below `alpha`."""

    d_threshold: float = 0.8
    alpha: float = 0.05
