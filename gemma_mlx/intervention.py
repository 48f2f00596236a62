"""Change what the model computes at a site, for as long as a `with` block lasts.

An intervention acts on every token, prompt and generated, of every row; capture records what it
left. A vector is (width,) for all rows, or (rows, width) for a batch of so many rows; with `each`,
(versions, width) for one row, which goes on in so many versions (`gemma_mlx.read_choice`). A site,
layer, vector or batch that doesn't fit raises a `RequestError`.

Activation addition: Turner et al. 2023 (arXiv:2308.10248); directional ablation: Arditi et
al. 2024 (arXiv:2406.11717).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np

from gemma_mlx.errors import RequestError
from gemma_mlx.models.gemma import Intervention
from gemma_mlx.system.backend import mx


class Hooked(Protocol):
    """A model that calls hooks at its sites: a `Gemma`, or what offers as much."""

    @property
    def interventions(self) -> list[Intervention]:
        """Those that are on now."""

    def width(self, site: str, layer: int) -> int:
        """Features of a token's vector; a `RequestError` where there is no such site or layer."""


def add(
    gemma: Hooked, site: str, layer: int, vector: np.ndarray, *, each: bool = False
) -> AbstractContextManager[None]:
    """Add `vector` to the activations at `site` of `layer`."""
    addend = _vector(gemma, site, layer, vector)
    return _changed(gemma, site, layer, lambda x: x + _of_rows(addend, x, each).astype(x.dtype))


def scale(gemma: Hooked, site: str, layer: int, factor: float) -> AbstractContextManager[None]:
    """Multiply the activations at `site` of `layer` by `factor`."""
    gemma.width(site, layer)
    if not math.isfinite(factor):
        raise RequestError(f"the factor for {site} of layer {layer} is {factor}")
    return _changed(gemma, site, layer, lambda x: x * factor)


def ablate(
    gemma: Hooked, site: str, layer: int, direction: np.ndarray, *, each: bool = False
) -> AbstractContextManager[None]:
    """Project `direction`, of any length but 0, out of the activations at `site`."""
    v = _vector(gemma, site, layer, direction)
    norm = mx.linalg.norm(v, axis=-1, keepdims=True)
    if not norm.all().item():
        raise RequestError("the direction to ablate is the zero vector")
    unit = v / norm

    def project_out(x: mx.array) -> mx.array:
        # In float32: a projection taken in bfloat16 leaves a hundredth of the direction behind.
        y, u = x.astype(mx.float32), _of_rows(unit, x, each)
        return (y - (y * u).sum(axis=-1, keepdims=True) * u).astype(x.dtype)

    return _changed(gemma, site, layer, project_out)


@contextmanager
def _changed(
    gemma: Hooked, site: str, layer: int, change: Callable[[mx.array], mx.array]
) -> Iterator[None]:
    found = Intervention(site, layer, change)
    gemma.interventions.append(found)
    try:
        yield
    finally:
        gemma.interventions.remove(found)


def _vector(gemma: Hooked, site: str, layer: int, vector: np.ndarray) -> mx.array:
    width = gemma.width(site, layer)
    array = np.asarray(vector, dtype=np.float32)
    if array.ndim not in (1, 2) or array.shape[-1] != width:
        raise RequestError(
            f"a vector at {site} has shape ({width},) or (rows, {width}), not {array.shape}"
        )
    if not np.isfinite(array).all():
        raise RequestError(f"the vector for {site} of layer {layer} holds NaN or infinity")
    return mx.array(array if array.ndim == 1 else array[:, None])


def _of_rows(vector: mx.array, x: mx.array, each: bool) -> mx.array:
    """`vector`, if it fits the rows of `x`: as many or, with `each`, one, which goes on in so many
    versions, if it doesn't already."""
    # MLX would broadcast one row to all.
    fitting = (1, vector.shape[0]) if each else (vector.shape[0],)
    if vector.ndim == 3 and x.shape[0] not in fitting:
        raise RequestError(f"{vector.shape[0]} vectors for a batch of {x.shape[0]} rows")
    return vector
