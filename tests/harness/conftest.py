from pathlib import Path

import pytest

import gemma_mlx
from gemma_mlx import Checkpoint, Gemma, Generation, Request
from harness.report import plots
from tests.support.builders import checkpoint
from tests.support.collecting import FOUR_BATCHES, gather, stored
from tests.support.measured import tiny_checkpoint


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Random weights, six layers; not to be changed."""
    return checkpoint(Path(tmp_path_factory.mktemp("checkpoint")) / "small")


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn: whether figures draw is the matter of test_plots."""
    monkeypatch.setattr(plots, "separation_figure", lambda *_: None)
    monkeypatch.setattr(plots, "to_bytes", lambda *_: b"<svg/>")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Random weights, two layers; not to be changed."""
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="session")
def whole(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an undisturbed collection in four batches."""
    root = tmp_path_factory.mktemp("whole")
    gather(tiny, root, FOUR_BATCHES)
    assert len(stored(root)) == 5
    return root


@pytest.fixture(scope="session")
def _gemma(tiny: Checkpoint) -> Gemma:
    return gemma_mlx.load_checkpoint(tiny)


@pytest.fixture
def loaded(_gemma: Gemma, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """`tiny` is loaded once; numbers of the prompts of each batch that is run."""
    run_batch = gemma_mlx.run_batch
    batches: list[list[int]] = []

    def counted(gemma: Gemma, request: Request, batch: list[int]) -> list[Generation]:
        batches.append(batch)
        return run_batch(gemma, request, batch)

    monkeypatch.setattr(gemma_mlx, "load_checkpoint", lambda *_args, **_options: _gemma)
    monkeypatch.setattr(gemma_mlx, "run_batch", counted)
    return batches
