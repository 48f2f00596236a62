"""Gemma 3 text models on MLX, with capture of activations at every layer."""

# First: it has to load before anything imports mlx.core.
from gemma_mlx.system.blas import BLAS  # isort: split

from gemma_mlx import intervention
from gemma_mlx.capture import Activations
from gemma_mlx.checkpoint import Checkpoint, find_checkpoint
from gemma_mlx.config import GemmaConfig
from gemma_mlx.errors import CheckpointError, RequestError
from gemma_mlx.generation import (
    Generation,
    Positions,
    Request,
    encode_prompts,
    generate,
    logits,
    plan_batches,
    prompt_seed,
    run_batch,
)
from gemma_mlx.loading import Gemma, device_name, load, load_checkpoint
from gemma_mlx.ranks import ALONE, Ranks, RanksError, find_ranks
from gemma_mlx.reading import Reading, read_continuations
from gemma_mlx.sampling import Sampling
from gemma_mlx.sites import SITES, Site

__all__ = [
    "ALONE",
    "BLAS",
    "SITES",
    "Activations",
    "Checkpoint",
    "CheckpointError",
    "Gemma",
    "GemmaConfig",
    "Generation",
    "Positions",
    "Ranks",
    "RanksError",
    "Reading",
    "Request",
    "RequestError",
    "Sampling",
    "Site",
    "device_name",
    "encode_prompts",
    "find_checkpoint",
    "find_ranks",
    "generate",
    "intervention",
    "load",
    "load_checkpoint",
    "logits",
    "plan_batches",
    "prompt_seed",
    "read_continuations",
    "run_batch",
]
