"""Gemma 3's text model written down plainly: NumPy, float64, one row, no cache, no padding.

An independent statement of what `gemma_mlx` computes; it reads the same config keys and tensors.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.checkpoints import Weights

Change = Callable[[str, int, np.ndarray], np.ndarray]


def no_change(site: str, layer: int, x: np.ndarray) -> np.ndarray:
    return x


def forward(
    config: dict[str, Any], tensors: Weights, ids: list[int], change: Change = no_change
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits (tokens, vocab) and per site (layers, tokens, width); `attn_pattern` is (layers,
    heads, tokens, keys). What `change` makes of a site's value takes its place."""
    w = {key: value.astype(np.float64) for key, value in tensors.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    count, width = len(ids), config["head_dim"]
    distance = np.arange(count)[:, None] - np.arange(count)[None, :]
    seen: dict[str, list[np.ndarray]] = {}

    def note(site: str, value: np.ndarray) -> np.ndarray:
        sofar = seen.setdefault(site, [])
        sofar.append(change(site, len(sofar), value))
        return sofar[-1]

    def norm(x: np.ndarray, key: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + w[f"{key}.weight"])

    x = w["model.embed_tokens.weight"][ids] * np.sqrt(config["hidden_size"])
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        is_global = (layer + 1) % config["sliding_window_pattern"] == 0
        base = config["rope_theta"] if is_global else config["rope_local_base_freq"]
        allowed = distance >= 0
        if not is_global:
            allowed &= distance < config["sliding_window"]

        def split(y: np.ndarray, count_heads: int) -> np.ndarray:
            return y.reshape(count, count_heads, width).transpose(1, 0, 2)

        x = note("resid_pre", x)
        y = norm(x, f"{block}.input_layernorm")
        q, k, v = (
            split(y @ w[f"{block}.self_attn.{name}_proj.weight"].T, n)
            for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        q = rotate(norm(q, f"{block}.self_attn.q_norm"), base)
        k = rotate(norm(k, f"{block}.self_attn.k_norm"), base)
        k, v = k.repeat(heads // kv_heads, axis=0), v.repeat(heads // kv_heads, axis=0)
        scores = q @ k.swapaxes(1, 2) / np.sqrt(config["query_pre_attn_scalar"])
        scores = np.where(allowed, cap(scores, config.get("attn_logit_softcapping")), -np.inf)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        pattern = note("attn_pattern", pattern / pattern.sum(-1, keepdims=True))
        mixed = (pattern @ v).transpose(1, 0, 2).reshape(count, -1)
        attended = note("attn_out", mixed @ w[f"{block}.self_attn.o_proj.weight"].T)
        x = note("resid_mid", x + norm(attended, f"{block}.post_attention_layernorm"))
        y = norm(x, f"{block}.pre_feedforward_layernorm")
        gate, up = (y @ w[f"{block}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        gate = gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) / 2
        y = note("mlp_post", gate * up) @ w[f"{block}.mlp.down_proj.weight"].T
        y = norm(note("mlp_out", y), f"{block}.post_feedforward_layernorm")
        y = note("mlp_out_normed", y)
        x = note("resid_post", x + y)
    logits = norm(x, "model.norm") @ w["model.embed_tokens.weight"].T
    logits = cap(logits, config.get("final_logit_softcapping"))
    return logits, {site: np.stack(values) for site, values in seen.items()}


def rotate(x: np.ndarray, base: float) -> np.ndarray:
    """Rotary position embedding of (heads, tokens, width), halves paired."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    one, other = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([one * cos - other * sin, other * cos + one * sin], axis=-1)


def cap(x: np.ndarray, limit: float | None) -> np.ndarray:
    return x if limit is None else np.tanh(x / limit) * limit
