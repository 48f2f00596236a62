"""A small Llama with random weights, as transformers 5 saves one, and a tokenizer without a BOS."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.support.tokenizers import save_tokenizer

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
    # Where transformers 5 has it, and mlx-lm doesn't look.
    "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
    "bos_token_id": 2,
    "eos_token_id": 1,
}
TEMPLATE = (
    "{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def llama_checkpoint(path: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint whose config is `CONFIG` with `changes`, with its tokenizer."""
    config = {**CONFIG, **changes}
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes = {"model.embed_tokens": (config["vocab_size"], hidden), "model.norm": (hidden,)}
    heads = config["head_dim"] * config["num_attention_heads"]
    keys = config["head_dim"] * config["num_key_value_heads"]
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.self_attn.q_proj": (heads, hidden),
            f"{block}.self_attn.k_proj": (keys, hidden),
            f"{block}.self_attn.v_proj": (keys, hidden),
            f"{block}.self_attn.o_proj": (hidden, heads),
            f"{block}.mlp.gate_proj": (inner, hidden),
            f"{block}.mlp.up_proj": (inner, hidden),
            f"{block}.mlp.down_proj": (hidden, inner),
            f"{block}.input_layernorm": (hidden,),
            f"{block}.post_attention_layernorm": (hidden,),
        }
    tensors = {
        f"{name}.weight": (rng.standard_normal(shape) * 0.15 + ("norm" in name)).astype(np.float32)
        for name, shape in shapes.items()
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    save_tokenizer(path, template=TEMPLATE)
    return path
