"""What the embedded checkpoints are there to show, end to end."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import harness
from gemma_mlx.system.backend import mx
from harness.analysis.comparison import VersionComparison
from harness.results import Results
from harness.results.baseline import compare_with, load_baseline
from harness.settings import AnalysisSettings
from tests.support.runs import ALIGNED, BASE

pytestmark = pytest.mark.slow

LAYERS = (0, 3, 6)
QUICK = AnalysisSettings(replicates=500)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def analysed(model: str | Path, store: Path, **options: object) -> Results:
    return harness.analyze(
        model, layers=LAYERS, max_tokens=8, settings=QUICK, store=store, **options
    )


@pytest.fixture(scope="module")
def aligned(store: Path) -> Results:
    return analysed(ALIGNED, store)


@pytest.fixture(scope="module")
def base(store: Path) -> Results:
    return analysed(BASE, store)


def against(before: Results, now: Results, folder: Path) -> VersionComparison:
    return compare_with(load_baseline(before.save("before", folder)), now)


def verdicts(compared: VersionComparison) -> set[str]:
    return {layer.comparison.verdict for layer in compared.layers.values()}


def test_aligned_separates_and_base_does_not(aligned: Results, base: Results) -> None:
    assert all(aligned.ladder(key).holds("separates") for key in aligned)
    assert {base.outcome(key) for key in base} == {"failed"}
    assert aligned[6, "mlp_out"].separation.d >= 2.5
    assert abs(base[6, "mlp_out"].separation.d) <= 0.5


def test_most_of_it_is_the_words(aligned: Results) -> None:
    for result in aligned.values():
        forced = result.companions["forced"]
        assert forced.d < result.separation.d / 2


def test_aligned_is_equivalent_to_itself(aligned: Results, tmp_path: Path) -> None:
    compared = against(aligned, aligned, tmp_path)
    assert verdicts(compared) == {"equivalent"}
    assert all(layer.comparison.difference == 0 for layer in compared.layers.values())
    assert all(layer.drift.cosine == pytest.approx(1) for layer in compared.layers.values())


def test_float_noise_changes_nothing(aligned: Results, store: Path, tmp_path: Path) -> None:
    noisy = tmp_path / "noisy"
    shutil.copytree(ALIGNED, noisy)
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


def test_eight_bits_change_nothing(aligned: Results, store: Path, tmp_path: Path) -> None:
    convert = pytest.importorskip("mlx_lm").convert
    quantized = tmp_path / "quantized"
    convert(
        str(ALIGNED),
        mlx_path=str(quantized),
        quantize=True,
        q_bits=8,
        q_group_size=32,
    )
    compared = against(aligned, analysed(quantized, store), tmp_path)
    assert verdicts(compared) == {"equivalent"}


def test_base_against_aligned_is_changed(aligned: Results, base: Results, tmp_path: Path) -> None:
    compared = against(base, aligned, tmp_path)
    assert verdicts(compared) == {"changed"}
    assert all(layer.comparison.difference > 0 for layer in compared.layers.values())
    assert set(compared.gained) == {result.id for result in aligned.values()}


def test_v2_is_weaker_in_one_category(aligned: Results, store: Path, tmp_path: Path) -> None:
    v2 = analysed("tiny-gemma3-aligned-v2", store)
    compared = against(aligned, v2, tmp_path)
    mean = {c: np.mean(list(changes.values())) for c, changes in compared.categories.items()}
    assert min(mean, key=mean.__getitem__) == "creative_boundaries"
    assert "changed" in verdicts(compared)


def test_beyond_its_base(base: Results, store: Path) -> None:
    found = analysed(ALIGNED, store, base_model=BASE)
    for result in found.values():
        assert result.beyond_base.interval[0] > 0
        assert result.beyond_base.d_a == pytest.approx(
            base[result.layer, result.site].separation.d, abs=1e-9
        )
