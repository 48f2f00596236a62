from pathlib import Path

import pytest

from gemma_mlx import Checkpoint
from tests.support.builders import checkpoint


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Random weights, six layers; not to be changed."""
    return checkpoint(Path(tmp_path_factory.mktemp("checkpoint")) / "small")
