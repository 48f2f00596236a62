"""Gemma 2 and 3 in one GGUF file, the format of llama.cpp, LM Studio and Ollama."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gemma_mlx.checkpoint import Checkpoint, Template
from gemma_mlx.config import GemmaConfig
from gemma_mlx.errors import CheckpointError
from gemma_mlx.gguf_file import Header, dequantized, read_header
from gemma_mlx.system.files import sha256
from gemma_mlx.system.interrupts import held

_ARCHITECTURES = {"gemma2": "gemma2", "gemma3": "gemma3_text"}
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}

#: Metadata keys, without the architecture in front of them, and what config.json calls them.
REQUIRED = {
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
}
_REQUIRED_OF_GEMMA3 = {
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
}
_OPTIONAL = {
    "attention.key_length": "head_dim",
    "attention.sliding_window_pattern": "sliding_window_pattern",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base_swa": "rope_local_base_freq",
    "rope.local.freq_base": "rope_local_base_freq",  # Ollama's name for it
}
# Read otherwise, or without effect on Gemma's text model.
_OTHER = {
    "attention.causal",
    "attention.value_length",
    "mm.tokens_per_image",
    "rope.dimension_count",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
}

#: Tensors of every architecture that is read, and what Hugging Face checkpoints call them.
MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_k": "self_attn.k_proj",
    "attn_norm": "input_layernorm",
    "attn_output": "self_attn.o_proj",
    "attn_q": "self_attn.q_proj",
    "attn_v": "self_attn.v_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
}
_MODULES = {
    **MODULES,
    "attn_k_norm": "self_attn.k_norm",
    "attn_q_norm": "self_attn.q_norm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_TENSOR = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<what>\w+)\.(?P<part>weight|bias)")

#: Of the tokenizer's token types.
CONTROL, USER_DEFINED = 3, 4
_END_OF_TURN = "<end_of_turn>"


@dataclass(frozen=True)
class GgufCheckpoint(Checkpoint):
    """A checkpoint in one GGUF file, whose metadata hold config, tokenizer and chat template.

    Every property raises CheckpointError where the file is damaged or isn't a Gemma 2 or 3.
    """

    @cached_property
    def config(self) -> GemmaConfig:
        return GemmaConfig.from_dict(_config(self._header), source=str(self.path))

    @property
    def has_tokenizer(self) -> bool:
        return "tokenizer.ggml.tokens" in self._header.metadata

    def weight_files(self) -> list[Path]:
        return [self.path]

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names as in Hugging Face checkpoints, and values dequantized to float32, one by one.

        Raises:
            CheckpointError: the package `gguf` is missing or can't dequantize a tensor, or the
                file ends before the tensor does.
        """
        for tensor in self._header.tensors:
            values = dequantized(self.path, self._header.data, tensor)
            if tensor.name.endswith("norm.weight"):
                # llama.cpp multiplies by the weight itself, Gemma by 1 + weight.
                values -= 1
            yield published_name(tensor.name, _MODULES), values

    def read_tokenizer(self) -> Any:
        """The `transformers` tokenizer that the metadata describe.

        `transformers` reads GGUF files too, but needs PyTorch for it.
        """
        with held():
            from tokenizers import AddedToken
            from transformers import GemmaTokenizer

        metadata = self._header.metadata
        model = metadata.get("tokenizer.ggml.model")
        if model != "llama":
            raise ValueError(f"its kind is {model!r}; Gemma's is 'llama'")
        tokens = metadata["tokenizer.ggml.tokens"]
        types = metadata["tokenizer.ggml.token_type"]
        # Runs of spaces are stored as they are; the tokenizer sees ▁ in place of each.
        spelled = ["▁" * len(token) if not token.strip(" ") else token for token in tokens]
        vocabulary = {token: number for number, token in enumerate(spelled)}
        tokenizer = GemmaTokenizer(
            vocab=vocabulary,
            merges=_merges(spelled, vocabulary),
            **special_tokens(metadata),
        )
        added = [
            AddedToken(token, normalized=False, special=kind == CONTROL)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (CONTROL, USER_DEFINED) and token in vocabulary
        ]
        tokenizer.backend_tokenizer.add_tokens(added)
        return tokenizer

    def _own_template(self) -> Template | None:
        text = self._header.metadata.get("tokenizer.chat_template")
        return None if text is None else Template(text, self.path)

    def _own_fingerprint(self) -> str:
        return sha256(self.path)

    @cached_property
    def _header(self) -> Header:
        return read_header(self.path)

    @property
    def architecture(self) -> Any:
        """What the file says that it is, without a check."""
        return self._header.metadata.get("general.architecture")


def _config(header: Header) -> dict[str, Any]:
    """What config.json would say."""
    metadata, path = header.metadata, header.path
    architecture = metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES or metadata.get("general.type", "model") != "model":
        found = f"{metadata.get('general.type', 'model')} of architecture {architecture!r}"
        raise CheckpointError(
            f"{path}: a {found}; supported are models of {' and '.join(_ARCHITECTURES)}"
        )
    required = {**REQUIRED, **(_REQUIRED_OF_GEMMA3 if architecture == "gemma3" else {})}
    config, values = read_config(
        header, required=required, optional={**_REQUIRED_OF_GEMMA3, **_OPTIONAL}, other=_OTHER
    )
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        # 0 stands for no cap.
        if cap in config:
            config[cap] = config[cap] or None
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, list):
        del config["sliding_window_pattern"]
        config["layer_types"] = [
            "sliding_attention" if local else "full_attention" for local in pattern
        ]
    if not values.get("attention.causal", True):
        raise CheckpointError(
            f"{path}: {architecture}.attention.causal must be True, not "
            f"{values['attention.causal']!r}"
        )
    # Not in the file: llama.cpp knows it by the number of layers.
    largest = config["num_hidden_layers"] == _LAYERS_OF_27B[architecture]
    config["query_pre_attn_scalar"] = (
        config["hidden_size"] // config["num_attention_heads"] if largest else config["head_dim"]
    )
    scaling = values.get("rope.scaling.type", "linear")
    if "rope.scaling.factor" in values and scaling != "none":
        config["rope_scaling"] = {"rope_type": scaling, "factor": values["rope.scaling.factor"]}
    return {**config, "model_type": _ARCHITECTURES[architecture]}


def read_config(
    header: Header,
    *,
    required: Mapping[str, str],
    optional: Mapping[str, str],
    other: Collection[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What config.json would say that all architectures have, and the metadata of this one.

    Args:
        required, optional: keys without the architecture in front, and config.json's names.
        other: keys that may be there, too.

    Raises:
        CheckpointError: a key is missing, unknown, or of a value that isn't supported.
    """
    metadata, path = header.metadata, header.path
    prefix = f"{metadata['general.architecture']}."
    values = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    names = {**optional, **required}
    missing = sorted(required.keys() - values.keys())
    unknown = sorted(values.keys() - names.keys() - set(other))
    if missing or unknown:
        what = f"no {prefix}{missing[0]}" if missing else f"unsupported key {prefix}{unknown[0]}"
        raise CheckpointError(f"{path}: {what} in the metadata")
    config = {ours: values[theirs] for theirs, ours in names.items() if theirs in values}
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    if not isinstance(heads, int) or not isinstance(hidden, int) or not 0 < heads <= hidden:
        raise CheckpointError(f"{path}: {prefix}attention.head_count {heads!r} is not supported")
    width = config.setdefault("head_dim", hidden // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if values.get(key, width) != width:
            raise CheckpointError(f"{path}: {prefix}{key} must be {width}, not {values[key]!r}")
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    if "token_embd.weight" not in shapes:
        raise CheckpointError(f"{path}: no tensor token_embd.weight")
    config |= {
        "vocab_size": shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in shapes,
        **_ends(metadata),
    }
    return config, values


def special_tokens(metadata: Mapping[str, Any]) -> dict[str, str | None]:
    """The tokens of special meaning, as arguments of a tokenizer of `transformers`."""
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        f"{ours}_token": tokens[metadata[key]] if key in metadata else None
        for ours, key in (
            ("bos", "tokenizer.ggml.bos_token_id"),
            ("eos", "tokenizer.ggml.eos_token_id"),
            ("pad", "tokenizer.ggml.padding_token_id"),
            ("unk", "tokenizer.ggml.unknown_token_id"),
            ("mask", "tokenizer.ggml.mask_token_id"),
        )
    }


def _ends(metadata: dict[str, Any]) -> dict[str, Any]:
    """Ids of the tokens that begin and end a text; what the metadata leave out is Gemma's own."""
    found: dict[str, Any] = {}
    if "tokenizer.ggml.bos_token_id" in metadata:
        found["bos_token_id"] = metadata["tokenizer.ggml.bos_token_id"]
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    ends = [metadata[key] for key in keys if key in metadata]
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    # Many files of instruction-tuned models don't name the end of a turn; llama.cpp goes by the
    # token's text.
    if keys[1] not in metadata and _END_OF_TURN in metadata.get("tokenizer.chat_template", ""):
        ends += [tokens.index(_END_OF_TURN)] if _END_OF_TURN in tokens else []
    if ends:
        found["eos_token_id"] = ends
    return found


def _merges(tokens: list[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make a token of two, the earliest token's first.

    Gemma's merges were learned in the order of its vocabulary. `transformers` puts the longest
    left part first.
    """
    return [
        (token[:cut], token[cut:])
        for token in tokens
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]


def published_name(name: str, modules: Mapping[str, str]) -> str:
    """The name in Hugging Face checkpoints, which call modules as `modules` says; a name that isn't
    among those stays as it is."""
    match = _TENSOR.fullmatch(name)
    if match is None or match["what"] not in modules:
        return name
    where = f"model.layers.{match['layer']}." if match["layer"] else ""
    return f"{where}{modules[match['what']]}.{match['part']}"
