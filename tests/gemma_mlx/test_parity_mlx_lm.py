"""The same numbers as mlx-lm's Gemma 3 on the same files, plain and quantized by its converter.

mlx-lm rounds √hidden to bfloat16 whatever the dtype (transformers, which we follow, to the compute
dtype), so the hidden sizes here have exact roots: 64 and 256.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import Gemma
from gemma_mlx.quantization import MODES, Scheme
from gemma_mlx.system.backend import mx
from tests.support.checkpoints import config as text_config
from tests.support.checkpoints import random_checkpoint, relative_error, save, weights
from tests.support.tokenizers import save_tokenizer

mlx_lm = pytest.importorskip("mlx_lm", reason="parity with mlx-lm needs the extra 'test'")
from mlx_lm.convert import convert  # noqa: E402
from mlx_lm.generate import batch_generate  # noqa: E402

TOLERANCE = 1e-5


def rows(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, 100, n).tolist() for n in lengths]


def check(path: Path) -> Gemma:
    """Logits of whole rows and greedy tokens of a batch, well past the sliding window."""
    gemma = gemma_mlx.load(path)
    theirs, tokenizer = mlx_lm.load(str(path))
    (ids,) = rows(30)
    expected = np.array(theirs(mx.array([ids])))[0]
    assert relative_error(gemma_mlx.logits(gemma, [ids])[0], expected) <= TOLERANCE
    prompts = rows(20, 3, 9)
    ours = gemma_mlx.generate(gemma, prompts, max_tokens=12)
    answers = batch_generate(theirs, tokenizer, prompts, max_tokens=12, return_token_ids=True)
    assert [g.token_ids for g in ours] == answers.token_ids
    return gemma


def multimodal(path: Path, **changes: Any) -> Path:
    """The checkpoint as the text tower of a multimodal one, under the prefix mlx-lm knows."""
    text = text_config(**changes)
    tensors = {f"language_model.{key}": value for key, value in weights(text).items()}
    outer = {
        "model_type": "gemma3",
        "text_config": {**text, "model_type": "gemma3_text"},
        "vocab_size": text["vocab_size"],
        "eos_token_id": [1, 5],
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    return save_tokenizer(save(path, outer, tensors))


CASES: dict[str, dict[str, Any]] = {
    "six layers": {},
    "one key for four queries": {"num_key_value_heads": 1, "head_dim": 32},
    "scaled rope": {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "window 4, pattern 2": {"sliding_window": 4, "sliding_window_pattern": 2},
    "untied": {"tie_word_embeddings": False},
    "hidden 256": {"hidden_size": 256},
}


@pytest.mark.parametrize("case", CASES)
def test_full_precision(tmp_path: Path, case: str) -> None:
    check(save_tokenizer(random_checkpoint(tmp_path, **CASES[case])))


def test_full_precision_multimodal(tmp_path: Path) -> None:
    check(multimodal(tmp_path))


SCHEMES = [
    *(("affine", 32, bits) for bits in MODES["affine"]["bits"]),
    *(("affine", size, 4) for size in (64, 128)),
    *((mode, sizes["group_size"][0], sizes["bits"][0]) for mode, sizes in MODES.items()
      if mode != "affine"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("make", [random_checkpoint, multimodal], ids=["text", "multimodal"])
@pytest.mark.parametrize(("mode", "group_size", "bits"), SCHEMES)
def test_quantized(
    tmp_path: Path, make: Callable[..., Path], mode: str, group_size: int, bits: int
) -> None:
    # With larger groups the width 96 of down_proj and o_proj can't be quantized, and isn't.
    original = save_tokenizer(make(tmp_path / "original", hidden_size=256))
    converted = tmp_path / "converted"
    convert(
        str(original),
        str(converted),
        quantize=True,
        q_group_size=group_size,
        q_bits=bits,
        q_mode=mode,
    )
    gemma = check(converted)
    assert gemma.config.quantization is not None
    assert gemma.config.quantization.default == Scheme(group_size, bits, mode)
    if bits == 8:
        (ids,) = rows(30)
        plain = gemma_mlx.logits(gemma_mlx.load(original), [ids])
        assert relative_error(gemma_mlx.logits(gemma, [ids]), plain) < 0.2


def mixed(path: str, module: Any) -> bool | dict[str, Any]:
    if "layers.2" in path or "v_proj" in path:
        return False
    if "down_proj" in path:
        return {"group_size": 32, "bits": 8, "mode": "affine"}
    if "gate_proj" in path:
        return {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    return True


@pytest.mark.slow
@pytest.mark.parametrize("make", [random_checkpoint, multimodal], ids=["text", "multimodal"])
@pytest.mark.parametrize("predicate", [mixed, "mixed_3_6"], ids=["by layer", "recipe"])
def test_quantized_with_overrides(
    tmp_path: Path, make: Callable[..., Path], predicate: Callable | str
) -> None:
    original = save_tokenizer(make(tmp_path / "original", tie_word_embeddings=False))
    converted = tmp_path / "converted"
    convert(
        str(original),
        str(converted),
        quantize=True,
        q_group_size=32,
        q_bits=4,
        quant_predicate=predicate,
    )
    gemma = check(converted)
    assert gemma.config.quantization is not None
    assert gemma.config.quantization.overrides


def test_a_layer_switched_off_in_the_config_must_be_so_in_the_file(tmp_path: Path) -> None:
    original = save_tokenizer(random_checkpoint(tmp_path / "original"))
    converted = tmp_path / "converted"
    convert(str(original), str(converted), quantize=True, q_group_size=32, q_bits=4)
    file = converted / "config.json"
    stated = json.loads(file.read_text())
    stated["quantization"]["model.layers.0.mlp.up_proj"] = False
    file.write_text(json.dumps(stated))
    with pytest.raises(gemma_mlx.CheckpointError, match=r"layers\.0\.mlp\.up_proj\.\w+"):
        gemma_mlx.load(converted)


def test_a_mode_that_this_device_has_no_kernel_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = save_tokenizer(random_checkpoint(tmp_path / "original"))
    converted = tmp_path / "converted"
    convert(str(original), str(converted), quantize=True, q_group_size=32, q_bits=8, q_mode="mxfp8")

    def refuse(*_: Any, **how: Any) -> None:
        # As MLX's CUDA back end says it.
        raise RuntimeError(f"[quantized_matmul] No implementation for {how['mode']}")

    monkeypatch.setattr(mx, "quantized_matmul", refuse)
    with pytest.raises(gemma_mlx.CheckpointError, match=r"on this .pu with .* mxfp8") as raised:
        gemma_mlx.load(converted)
    assert str(converted) in str(raised.value)
    assert "\n" not in str(raised.value)
