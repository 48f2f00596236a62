from pathlib import Path

import pytest

import gemma_mlx
from gemma_mlx import Gemma
from tests.support.checkpoints import random_checkpoint


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    """Six layers with windows of 7 tokens, two of them global; no tokenizer."""
    return gemma_mlx.load(random_checkpoint(tmp_path_factory.mktemp("gemma")))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small checkpoint of one's own, to be damaged."""
    return random_checkpoint(
        tmp_path / "checkpoint", num_hidden_layers=2, max_position_embeddings=64
    )
