"""GGUF files as llama.cpp's converter writes them, from a config and weights as Hugging Face has
them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoints import Weights
from tests.support.tokenizers import CONTROL

_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

#: Words of the tokenizer, in the order of their merges; each of two that stand before it.
WORDS = ["th", "the", "▁the", "us", "use", "user", "▁user", "\n▁", "▁▁▁"]


def gguf_name(name: str) -> str:
    module, part = name.rsplit(".", 1)
    if module in _TOP:
        return f"{_TOP[module]}.{part}"
    layer, inner = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_BLOCK[inner]}.{part}"


def tokens() -> tuple[list[str], list[int]]:
    """The tokens of a small vocabulary in SentencePiece's manner, and their types."""
    words = [(word, 3) for word in CONTROL]
    words += [("\n\n", 4), ("  ", 4)]
    words += [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    words += [(word, 1) for word in (*WORDS, "▁", "\n", *map(chr, range(33, 127)))]
    return [word for word, _ in words], [kind for _, kind in words]


def write_gguf(
    path: Path,
    config: dict[str, Any],
    weights: Weights,
    kind: str = "F32",
    *,
    tokenizer: bool = True,
    change: Callable[[dict[str, Any]], Any] = lambda metadata: None,
) -> Weights:
    """Write the file, and give the weights that are in it: those of matrices after quantization.

    Args:
        kind: quantization type of the matrices; norms are float32.
        change: is given the metadata to change them.
    """
    import gguf

    qtype = gguf.GGMLQuantizationType[kind]
    metadata = _metadata(config)
    if tokenizer:
        words, kinds = tokens()
        metadata |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": words,
            "tokenizer.ggml.scores": [-float(n) for n in range(len(words))],
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.bos_token_id": CONTROL.index("<bos>"),
            "tokenizer.ggml.eos_token_id": CONTROL.index("<eos>"),
            "tokenizer.ggml.padding_token_id": CONTROL.index("<pad>"),
            "tokenizer.ggml.unknown_token_id": CONTROL.index("<unk>"),
            "tokenizer.ggml.add_bos_token": True,
        }
    change(metadata)
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"))
    add_metadata(writer, metadata)
    stored = {}
    for name, tensor in weights.items():
        if "norm" in name:
            writer.add_tensor(gguf_name(name), tensor + 1)
            stored[name] = tensor + 1 - 1
        else:
            raw = gguf.quants.quantize(tensor, qtype)
            writer.add_tensor(gguf_name(name), raw, raw_dtype=qtype)
            stored[name] = gguf.quants.dequantize(raw, qtype).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    arch = config["model_type"].removesuffix("_text")
    values: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": config["sliding_window"],
    }
    if arch == "gemma3":
        values["rope.freq_base"] = config["rope_theta"]
        values["rope.freq_base_swa"] = config["rope_local_base_freq"]
        values["attention.sliding_window_pattern"] = config["sliding_window_pattern"]
    else:
        values["attn_logit_softcapping"] = config["attn_logit_softcapping"]
        values["final_logit_softcapping"] = config["final_logit_softcapping"]
    return {"general.architecture": arch, **{f"{arch}.{k}": v for k, v in values.items()}}


def add_metadata(writer: Any, metadata: dict[str, Any]) -> None:
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)
