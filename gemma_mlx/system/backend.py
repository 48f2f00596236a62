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
    # On Linux, `mlx` without `mlx-cpu` or `mlx-cuda-…` has no libmlx; that of `mlx-cuda-…` needs
    # libcuda, which comes with the driver alone.
    if "libcuda." in str(error):
        remedy = (
            "MLX's CUDA back end needs NVIDIA's driver; on a machine without it, uninstall "
            "mlx-cuda-12 or mlx-cuda-13 and install artifact-harness[cpu]"
        )
    else:
        remedy = (
            "on Linux it needs one of the extras "
            "artifact-harness[cpu], artifact-harness[cuda12], artifact-harness[cuda13]"
        )
    raise BackendError(f"MLX can't be loaded ({error}); {remedy}") from error

__all__ = ["mx", "nn", "optim", "shard_linear", "tree_flatten", "tree_unflatten"]
