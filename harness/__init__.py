"""A statistical test harness for the geometry of alignment artifacts.

`Experiment` says what is run, `Results` what came out; `analyze` is the short way from a model to
its results.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.experiment import Experiment, analyze
    from harness.results import Results

__all__ = ["Experiment", "Results", "__version__", "analyze"]

__version__ = "0.1.0"

_HOMES = {"Experiment": "experiment", "Results": "results", "analyze": "experiment"}


def __getattr__(name: str) -> Any:
    # Late, so that `harness.stats` can be used where there is no MLX, and pytest starts quickly.
    if name in _HOMES:
        return getattr(import_module(f"harness.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
