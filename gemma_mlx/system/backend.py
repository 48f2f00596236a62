"""MLX, for every module that computes with it: `mx`, `nn` and what else of MLX is used.

A BLAS has to be loaded before `mlx.core`, so nothing else in this package imports MLX.
"""

import gemma_mlx.system.blas  # noqa: F401  isort: split
from gemma_mlx.errors import BackendError

try:
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx.nn.layers.distributed import shard_linear
    from mlx.utils import tree_flatten, tree_unflatten
except ImportError as error:
    # On Linux, `mlx` without `mlx-cpu` or `mlx-cuda-…` has no libmlx.
    raise BackendError(
        f"MLX can't be loaded ({error}); on Linux it needs one of the extras "
        "artifact-harness[cpu], artifact-harness[cuda12], artifact-harness[cuda13]"
    ) from error

__all__ = ["mx", "nn", "optim", "shard_linear", "tree_flatten", "tree_unflatten"]
