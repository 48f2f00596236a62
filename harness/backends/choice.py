"""Which backend a checkpoint gets: its files say of which architecture it is."""

import os
from importlib.metadata import version

import gemma_mlx
from gemma_mlx import ALONE, Checkpoint, Ranks
from gemma_mlx.config import MODEL_TYPES
from gemma_mlx.errors import CheckpointError
from gemma_mlx.gguf import GgufCheckpoint
from harness.backends import gguf
from harness.backends.gemma import GemmaBackend
from harness.backends.mlx_lm_checkpoint import MlxLmCheckpoint, model_type
from harness.backends.model import Model
from harness.settings import Backend


def find_checkpoint(
    path_or_repo: str | os.PathLike[str],
    *,
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    chat_template: str | os.PathLike[str] | None = None,
    config_only: bool = False,
    backend: Backend | None = None,
) -> Checkpoint:
    """The checkpoint that `gemma_mlx.find_checkpoint` finds; for a backend other than Gemma's own
    a `MlxLmCheckpoint`.

    Args:
        backend: by default the one for its architecture.

    Raises:
        gemma_mlx.CheckpointError: no such checkpoint, or one that the backend can't read.
    """
    found = gemma_mlx.find_checkpoint(
        path_or_repo,
        revision=revision,
        adapter=adapter,
        chat_template=chat_template,
        config_only=config_only,
    )
    if isinstance(found, GgufCheckpoint):
        if backend != "gemma" and found.architecture == gguf.ARCHITECTURE:
            return gguf.LlamaGguf(found.path, found.adapter, found.given_template)
        if backend == "mlx_lm":
            raise CheckpointError(
                f"{found.path}: of GGUF files mlx-lm is given those of architecture "
                f"{gguf.ARCHITECTURE!r}, not {found.architecture!r}"
            )
        return found
    kind = model_type(found.path)
    if backend == "mlx_lm" or (backend is None and kind is not None and kind not in MODEL_TYPES):
        return MlxLmCheckpoint(found.path, found.adapter, found.given_template)
    return found


def backend_identity(checkpoint: Checkpoint) -> dict[str, str]:
    """What decides a run beside the checkpoint where another package computes it: its name and
    version; nothing for Gemma's own backend."""
    return {"mlx_lm": version("mlx-lm")} if isinstance(checkpoint, MlxLmCheckpoint) else {}


def load_model(checkpoint: Checkpoint, *, dtype: str | None = None, ranks: Ranks = ALONE) -> Model:
    """Load a checkpoint of `find_checkpoint` for the harness, which gives it texts.

    Args:
        dtype, ranks: as for `gemma_mlx.load`.

    Raises:
        gemma_mlx.CheckpointError: it can't be used, or has no tokenizer.
    """
    if not checkpoint.has_tokenizer:
        raise CheckpointError(
            f"{checkpoint.path}: no tokenizer.json or tokenizer.model in the folder, or no "
            "tokenizer in the GGUF file"
        )
    if isinstance(checkpoint, MlxLmCheckpoint):
        # Imported here: it is slow to import, and an extra.
        from harness.backends import mlx_lm

        return mlx_lm.load(checkpoint, dtype=dtype)
    return GemmaBackend(gemma_mlx.load_checkpoint(checkpoint, dtype=dtype, ranks=ranks))
