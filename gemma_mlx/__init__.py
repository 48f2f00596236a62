"""Gemma 3 text models on MLX, with capture of activations at every layer.

The names below are imported from their modules when they are first used: `import gemma_mlx` alone
loads neither MLX nor NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gemma_mlx import intervention as intervention
    from gemma_mlx.capture import Activations as Activations
    from gemma_mlx.checkpoint import Checkpoint as Checkpoint
    from gemma_mlx.checkpoint import find_checkpoint as find_checkpoint
    from gemma_mlx.config import GemmaConfig as GemmaConfig
    from gemma_mlx.errors import BackendError as BackendError
    from gemma_mlx.errors import CheckpointError as CheckpointError
    from gemma_mlx.errors import RanksError as RanksError
    from gemma_mlx.errors import RequestError as RequestError
    from gemma_mlx.errors import UserError as UserError
    from gemma_mlx.generation import Generation as Generation
    from gemma_mlx.generation import encode_prompts as encode_prompts
    from gemma_mlx.generation import generate as generate
    from gemma_mlx.generation import logits as logits
    from gemma_mlx.generation import prompt_seed as prompt_seed
    from gemma_mlx.generation import run_batch as run_batch
    from gemma_mlx.loading import Gemma as Gemma
    from gemma_mlx.loading import device_name as device_name
    from gemma_mlx.loading import load as load
    from gemma_mlx.loading import load_checkpoint as load_checkpoint
    from gemma_mlx.ranks import ALONE as ALONE
    from gemma_mlx.ranks import Ranks as Ranks
    from gemma_mlx.ranks import find_ranks as find_ranks
    from gemma_mlx.reading import Reading as Reading
    from gemma_mlx.reading import read_continuations as read_continuations
    from gemma_mlx.request import Positions as Positions
    from gemma_mlx.request import Request as Request
    from gemma_mlx.request import Sampling as Sampling
    from gemma_mlx.request import plan_batches as plan_batches
    from gemma_mlx.sites import SITES as SITES
    from gemma_mlx.sites import VECTOR_SITES as VECTOR_SITES
    from gemma_mlx.sites import Site as Site
    from gemma_mlx.system.blas import BLAS as BLAS

_MODULES = {
    "ALONE": "ranks",
    "BLAS": "system.blas",
    "SITES": "sites",
    "VECTOR_SITES": "sites",
    "Activations": "capture",
    "BackendError": "errors",
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "Gemma": "loading",
    "GemmaConfig": "config",
    "Generation": "generation",
    "Positions": "request",
    "Ranks": "ranks",
    "RanksError": "errors",
    "Reading": "reading",
    "Request": "request",
    "RequestError": "errors",
    "Sampling": "request",
    "Site": "sites",
    "UserError": "errors",
    "device_name": "loading",
    "encode_prompts": "generation",
    "find_checkpoint": "checkpoint",
    "find_ranks": "ranks",
    "generate": "generation",
    "intervention": "intervention",
    "load": "loading",
    "load_checkpoint": "loading",
    "logits": "generation",
    "plan_batches": "request",
    "prompt_seed": "generation",
    "read_continuations": "reading",
    "run_batch": "generation",
}
__all__ = list(_MODULES)

if not TYPE_CHECKING:  # Type checkers would take any name for one that is here.

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"{__name__}.{_MODULES[name]}")
        value = module if name == _MODULES[name] else getattr(module, name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
