"""Small checkpoints with random weights, in the format that Gemma 3 is published in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Weights = dict[str, np.ndarray]

# 64 = 8², so that √hidden is exact in every dtype; six layers of pattern 3 have both kinds twice.
CONFIG: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "query_pre_attn_scalar": 20,
    "sliding_window": 7,
    "sliding_window_pattern": 3,
    "rope_theta": 50_000.0,
    "rope_local_base_freq": 300.0,
    "max_position_embeddings": 1024,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def config(**changes: Any) -> dict[str, Any]:
    return {**CONFIG, **changes}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a text checkpoint, as published."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width = config["head_dim"]
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.get("tie_word_embeddings", True):
        tensors["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        for name, out, into in (
            ("q_proj", queries, hidden),
            ("k_proj", keys, hidden),
            ("v_proj", keys, hidden),
            ("o_proj", hidden, queries),
        ):
            tensors[f"{block}.self_attn.{name}.weight"] = (out, into)
            if config.get("attention_bias"):
                tensors[f"{block}.self_attn.{name}.bias"] = (out,)
        for name in ("gate_proj", "up_proj"):
            tensors[f"{block}.mlp.{name}.weight"] = (inner, hidden)
        tensors[f"{block}.mlp.down_proj.weight"] = (hidden, inner)
        for name in (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ):
            tensors[f"{block}.{name}.weight"] = (hidden,)
        if config["model_type"] != "gemma2":
            for name in ("q_norm", "k_norm"):
                tensors[f"{block}.self_attn.{name}.weight"] = (width,)
    return tensors


def weights(config: dict[str, Any], seed: int = 0) -> Weights:
    """Large enough that attention is sharp, norms matter and every mistake shows."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) * (0.3 if "norm" in name else 0.15)).astype(np.float32)
        for name, shape in shapes(config).items()
    }


def save(path: Path, config: dict[str, Any], tensors: Weights) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


def random_checkpoint(path: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint whose config is `CONFIG` with `changes`."""
    made = config(**changes)
    return save(path, made, weights(made, seed))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest value."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    if not expected.size:
        return 0.0
    return float(np.abs(found - expected).max() / np.abs(expected).max())
