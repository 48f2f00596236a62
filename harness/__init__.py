"""A statistical test harness for the geometry of alignment artifacts.

`harness.analyze` is the whole way from a model to its results.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.experiment import analyze

__all__ = ["__version__", "analyze"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Late, so that `harness.stats` can be used where there is no MLX.
    if name == "analyze":
        from harness.experiment import analyze

        return analyze
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
