"""Llama in one GGUF file, the format of llama.cpp, LM Studio and Ollama, for mlx-lm's model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gemma_mlx import CheckpointError
from gemma_mlx.gguf import (
    CONTROL,
    MODULES,
    REQUIRED,
    GgufCheckpoint,
    published_name,
    read_config,
    special_tokens,
)
from gemma_mlx.gguf_file import dequantized
from gemma_mlx.system.interrupts import held
from harness.backends.mlx_lm_checkpoint import MlxLmCheckpoint

ARCHITECTURE = "llama"
_OPTIONAL = {"attention.key_length": "head_dim", "rope.freq_base": "rope_theta"}
# Checked, or known from elsewhere.
_OTHER = {
    "attention.value_length",
    "rope.dimension_count",
    "rope.scaling.factor",
    "rope.scaling.type",
    "vocab_size",
}
_MODULES = {**MODULES, "ffn_norm": "post_attention_layernorm"}


@dataclass(frozen=True)
class LlamaGguf(MlxLmCheckpoint, GgufCheckpoint):  # type: ignore[misc]
    """A Llama in one GGUF file, whose metadata hold config, tokenizer and chat template.

    Every property raises CheckpointError where the file is damaged or isn't such a model.
    """

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names as in Hugging Face checkpoints, and values dequantized to float32, one by one.

        Raises:
            CheckpointError: the package `gguf` is missing or can't dequantize a tensor, or the
                file ends before the tensor does.
        """
        heads = {
            "attn_q.weight": self._raw["num_attention_heads"],
            "attn_k.weight": self._raw["num_key_value_heads"],
        }
        for tensor in self._header.tensors:
            values = dequantized(self.path, self._header.data, tensor)
            count = heads.get(tensor.name.partition(".")[2].partition(".")[2])
            if count:
                values = _halves(values, count)
            yield published_name(tensor.name, _MODULES), values

    def read_tokenizer(self) -> Any:
        """The `transformers` tokenizer that the metadata describe.

        `transformers` reads GGUF files too, but needs PyTorch for it.
        """
        with held():
            from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
            from transformers import PreTrainedTokenizerFast

        metadata = self._header.metadata
        kind = tuple(metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        if kind != ("gpt2", "smollm"):
            raise ValueError(f"its kind is {kind[0]!r}, {kind[1]!r}; 'gpt2', 'smollm' is read")
        tokens = metadata["tokenizer.ggml.tokens"]
        tokenizer = Tokenizer(
            models.BPE(
                vocab={token: number for number, token in enumerate(tokens)},
                merges=[tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]],
            )
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        types = metadata["tokenizer.ggml.token_type"]
        tokenizer.add_special_tokens(
            [
                AddedToken(token, normalized=False, special=True)
                for token, of_type in zip(tokens, types, strict=True)
                if of_type == CONTROL
            ]
        )
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special_tokens(metadata))

    @cached_property
    def _raw(self) -> dict[str, Any]:
        config, values = read_config(
            self._header, required=REQUIRED, optional=_OPTIONAL, other=_OTHER
        )
        scaling = values.get("rope.scaling.type", "none")
        if scaling == "linear":
            config["rope_scaling"] = {"rope_type": scaling, "factor": values["rope.scaling.factor"]}
        elif scaling != "none":
            raise CheckpointError(
                f"{self.path}: {ARCHITECTURE}.rope.scaling.type {scaling!r} is not supported"
            )
        return {**config, "model_type": ARCHITECTURE}


def _halves(values: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a projection to queries or keys (rows, width) as Hugging Face orders them: of a
    head, llama.cpp puts those that rotate together side by side, Hugging Face a half apart."""
    rows, width = values.shape
    return values.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
