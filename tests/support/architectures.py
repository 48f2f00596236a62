"""Small models of transformers with random weights, one for each architecture that is verified."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.numpy import load_file, save_file

from tests.support.tokenizers import save_tokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
# Not mlx-lm's own bases, and windows that prompts are longer than.
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 700.0}}
ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    "full_attention": {
        "rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 5000.0,
    },
}  # fmt: skip
GEMMA4: dict[str, Any] = {
    **SIZES,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "rope_parameters": ROPES,
    "vocab_size_per_layer_input": 131,
    "hidden_size_per_layer_input": 0,
    "final_logit_softcapping": 4.0,
}
PER_LAYER: dict[str, Any] = {
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
}
K_IS_V: dict[str, Any] = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
MOE: dict[str, Any] = {
    **K_IS_V,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def _plain(name: str, **changes: Any) -> Callable[[], Any]:
    def make() -> Any:
        config = getattr(transformers, f"{name}Config")(**{**SIZES, **ROPE, **changes})
        return getattr(transformers, f"{name}ForCausalLM")(config)

    return make


def _gemma4(**changes: Any) -> Callable[[], Any]:
    def make() -> Any:
        config = transformers.Gemma4TextConfig(**{**GEMMA4, **changes})
        return transformers.Gemma4ForCausalLM(config)

    return make


def _gemma4_multimodal() -> Any:
    text = transformers.Gemma4TextConfig(**{**GEMMA4, **PER_LAYER})
    vision = transformers.Gemma4VisionConfig(**VISION)
    return transformers.Gemma4ForConditionalGeneration(
        transformers.Gemma4Config(text_config=text, vision_config=vision, audio_config=None)
    )


def _gemma4_unified() -> Any:
    text = {**GEMMA4, **K_IS_V}
    for key in ("vocab_size_per_layer_input", "hidden_size_per_layer_input"):
        del text[key]
    config = transformers.Gemma4UnifiedConfig(
        text_config=transformers.Gemma4UnifiedTextConfig(**text)
    )
    return transformers.Gemma4UnifiedForConditionalGeneration(config)


def _gemma3n() -> Any:
    text = transformers.Gemma3nTextConfig(
        **{
            **SIZES,
            "head_dim": 16,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
                "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
            "vocab_size_per_layer_input": 131,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "laurel_rank": 4,
            "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0],
            "final_logit_softcapping": 4.0,
        }
    )
    return transformers.Gemma3nForCausalLM(text)


#: By what is verified: its `model_type`, and what makes the model.
ARCHITECTURES: dict[str, tuple[str, Callable[[], Any]]] = {
    "Gemma 4, per-layer inputs and shared keys": ("gemma4_text", _gemma4(**PER_LAYER)),
    "Gemma 4, keys are values in global layers": ("gemma4_text", _gemma4(**K_IS_V)),
    "Gemma 4, mixture of experts": ("gemma4_text", _gemma4(**MOE)),
    "Gemma 4, multimodal": ("gemma4", _gemma4_multimodal),
    "Gemma 4, unified": ("gemma4_unified", _gemma4_unified),
    "Gemma 3n": ("gemma3n", _gemma3n),
    "Llama": ("llama", _plain("Llama")),
    "Llama 3, scaled": (
        "llama",
        _plain(
            "Llama",
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 700.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            },
        ),
    ),
    "Qwen 2": ("qwen2", _plain("Qwen2")),
    "Qwen 3": ("qwen3", _plain("Qwen3", head_dim=24)),
    "Mistral": ("mistral", _plain("Mistral", sliding_window=None)),
    "Phi-3": ("phi3", _plain("Phi3", tie_word_embeddings=False)),
    "Phi-3, long": (
        "phi3",
        _plain(
            "Phi3",
            original_max_position_embeddings=64,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 700.0,
                "original_max_position_embeddings": 64,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            },
        ),
    ),
    "OLMo 2": ("olmo2", _plain("Olmo2")),
    "SmolLM 3": ("smollm3", _plain("SmolLM3", no_rope_layers=[1, 1, 0, 1])),
    # Layers with a state that goes on from token to token, beside attention or between it.
    "LFM 2": (
        "lfm2",
        _plain(
            "Lfm2",
            layer_types=["conv", "full_attention", "conv", "conv"],
            block_auto_adjust_ff_dim=False,
            # What published configs say and transformers doesn't need.
            block_dim=64,
            block_multiple_of=8,
            block_ffn_dim_multiplier=1.0,
        ),
    ),
    "Falcon H1": (
        "falcon_h1",
        _plain(
            "FalconH1",
            head_dim=16,
            mamba_d_ssm=64,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_d_state=8,
            mamba_chunk_size=16,
        ),
    ),
    "Jamba": (
        "jamba",
        _plain(
            "Jamba",
            rope_parameters=None,
            num_experts=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            mamba_d_state=8,
            mamba_dt_rank=4,
        ),
    ),
    "Qwen 3 Next": (
        "qwen3_next",
        _plain(
            "Qwen3Next",
            head_dim=16,
            layer_types=["linear_attention"] * 3 + ["full_attention"],
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            shared_expert_intermediate_size=24,
        ),
    ),
}  # fmt: skip


def save(model: Any, path: Path) -> Path:
    """`save_pretrained`, and a tokenizer beside it."""
    save_tokenizer(path)
    model.save_pretrained(path)
    if model.config.model_type == "gemma3n_text":
        # Published with its other towers, for whose vision transformers needs one more package.
        text = model.config.to_dict()
        config = {"model_type": "gemma3n", "text_config": text, "eos_token_id": [1, 5]}
        (path / "config.json").write_text(json.dumps(config))
        tensors = load_file(path / "model.safetensors")
        save_file(
            {key.replace("model.", "model.language_model.", 1): tensors[key] for key in tensors},
            path / "model.safetensors",
        )
    return path


def randomise(model: Any, seed: int = 0) -> Any:
    """Weights large enough that attention is sharp, norms matter and every mistake shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            near_one = "norm" in name or name.endswith("scale")
            tensor.normal_(mean=float(near_one), std=0.3 if near_one else 0.15)
        for name, tensor in model.named_buffers():
            if name.endswith("layer_scalar"):
                tensor.fill_(0.8)
    return model.float().eval()
