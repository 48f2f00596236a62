"""What the embedded checkpoints are there to show, end to end."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import harness
from gemma_mlx.system.backend import mx
from harness.analysis.comparison import VersionComparison
from harness.analysis.layers import Analysis
from harness.analysis.verdict import overall
from harness.experiment import EMBEDDED_MODEL
from harness.results.baseline import compare_with, load_baseline, save_baseline
from harness.settings import AnalysisSettings, Criteria

FIXTURES = EMBEDDED_MODEL.parent
LAYERS = (0, 3, 6)
QUICK = AnalysisSettings(replicates=500)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def analysed(model: Path, store: Path, **options: object) -> Analysis:
    return harness.analyze(model, layers=LAYERS, settings=QUICK, store=store, **options)


@pytest.fixture(scope="module")
def aligned(store: Path) -> Analysis:
    return analysed(FIXTURES / "tiny-gemma3-aligned", store)


@pytest.fixture(scope="module")
def base(store: Path) -> Analysis:
    return analysed(FIXTURES / "tiny-gemma3-base", store)


def against(before: Analysis, now: Analysis, folder: Path) -> VersionComparison:
    saved = load_baseline(save_baseline("before", before, Criteria(), folder))
    return compare_with(saved, now, Criteria(), margin=0.5)


def verdicts(compared: VersionComparison) -> set[str]:
    return {layer.comparison.verdict for layer in compared.layers.values()}


def test_aligned_separates_and_base_does_not(aligned: Analysis, base: Analysis) -> None:
    assert {overall(result, Criteria()) for result in aligned.values()} == {"passed"}
    assert {overall(result, Criteria()) for result in base.values()} == {"failed"}
    assert aligned[6, "mlp_out"].separation.d >= 2.5
    assert abs(base[6, "mlp_out"].separation.d) <= 0.5


def test_most_of_it_is_the_words(aligned: Analysis) -> None:
    for result in aligned.values():
        forced = result.companions["forced"]
        assert forced.d < result.separation.d / 2


def test_aligned_is_equivalent_to_itself(aligned: Analysis, tmp_path: Path) -> None:
    compared = against(aligned, aligned, tmp_path)
    assert verdicts(compared) == {"equivalent"}
    assert all(layer.comparison.difference == 0 for layer in compared.layers.values())
    assert all(layer.drift.cosine == pytest.approx(1) for layer in compared.layers.values())


def test_float_noise_changes_nothing(aligned: Analysis, store: Path, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy"
    shutil.copytree(FIXTURES / "tiny-gemma3-aligned", noisy)
    weights = mx.load(str(noisy / "model.safetensors"))
    mx.random.seed(0)
    changed = {
        name: (w.astype(mx.float32) * (1 + 1e-4 * mx.random.normal(w.shape))).astype(mx.float32)
        for name, w in weights.items()
    }
    mx.save_safetensors(str(noisy / "model.safetensors"), changed)
    compared = against(aligned, analysed(noisy, store), tmp_path)
    assert verdicts(compared) == {"equivalent"}
    assert any(layer.comparison.difference != 0 for layer in compared.layers.values())


def test_eight_bits_change_nothing(aligned: Analysis, store: Path, tmp_path: Path) -> None:
    convert = pytest.importorskip("mlx_lm").convert
    quantized = tmp_path / "quantized"
    convert(
        str(FIXTURES / "tiny-gemma3-aligned"),
        mlx_path=str(quantized),
        quantize=True,
        q_bits=8,
        q_group_size=32,
    )
    compared = against(aligned, analysed(quantized, store), tmp_path)
    assert verdicts(compared) == {"equivalent"}


def test_base_against_aligned_is_changed(aligned: Analysis, base: Analysis, tmp_path: Path) -> None:
    compared = against(base, aligned, tmp_path)
    assert verdicts(compared) == {"changed"}
    assert all(layer.comparison.difference > 0 for layer in compared.layers.values())
    assert set(compared.gained) == {result.id for result in aligned.values()}


def test_v2_is_weaker_in_one_category(aligned: Analysis, store: Path, tmp_path: Path) -> None:
    v2 = analysed(FIXTURES / "tiny-gemma3-aligned-v2", store)
    compared = against(aligned, v2, tmp_path)
    mean = {c: np.mean(list(changes.values())) for c, changes in compared.categories.items()}
    assert min(mean, key=mean.__getitem__) == "creative_boundaries"
    assert "changed" in verdicts(compared)


def test_beyond_its_base(base: Analysis, store: Path) -> None:
    found = analysed(
        FIXTURES / "tiny-gemma3-aligned", store, base_model=FIXTURES / "tiny-gemma3-base"
    )
    for result in found.values():
        assert result.beyond_base.interval[0] > 0
        assert result.beyond_base.d_a == pytest.approx(
            base[result.layer, result.site].separation.d, abs=1e-9
        )
