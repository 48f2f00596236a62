"""A GGUF file of a small Llama as llama.cpp's converter writes it, with a byte-level tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.support.gguf_files import add_metadata, gguf_name
from tests.support.llama import CONFIG, TEMPLATE, llama_checkpoint

VOCABULARY = 300
CONTROL = ["<|endoftext|>", "<start_of_turn>", "<end_of_turn>"]
MERGES = ["t h", "th e", "Ġ the", "1 2"]


def words() -> list[str]:
    """The tokens, those of single bytes by the characters that stand for them."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*CONTROL, *sorted(ByteLevel.alphabet()), *(m.replace(" ", "") for m in MERGES)]


def llama_gguf(
    path: Path, *, change: Callable[[dict[str, Any]], Any] = lambda metadata: None
) -> tuple[Path, Path]:
    """Write the file, and the folder of the same model.

    Args:
        change: is given the file's metadata to change them.
    """
    import gguf

    folder = llama_checkpoint(path / "folder", vocab_size=VOCABULARY)
    tokens = words()
    tokens += [f"<unused{n}>" for n in range(VOCABULARY - len(tokens))]
    metadata = {
        "llama.context_length": CONFIG["max_position_embeddings"],
        "llama.embedding_length": CONFIG["hidden_size"],
        "llama.block_count": CONFIG["num_hidden_layers"],
        "llama.feed_forward_length": CONFIG["intermediate_size"],
        "llama.attention.head_count": CONFIG["num_attention_heads"],
        "llama.attention.head_count_kv": CONFIG["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": CONFIG["rms_norm_eps"],
        "llama.rope.dimension_count": CONFIG["head_dim"],
        "llama.rope.freq_base": CONFIG["rope_parameters"]["rope_theta"],
        "llama.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in CONTROL else 1 for token in tokens],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    }
    change(metadata)
    file = path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    add_metadata(writer, metadata)
    for name, tensor in load_file(folder / "model.safetensors").items():
        stored = tensor
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # llama.cpp's converter: `LlamaModel.permute`.
            heads = CONFIG[f"num_{'attention' if 'q_proj' in name else 'key_value'}_heads"]
            shape = (heads, 2, len(tensor) // heads // 2, tensor.shape[1])
            stored = np.ascontiguousarray(tensor.reshape(shape).swapaxes(1, 2))
        name = name.replace("post_attention_layernorm", "pre_feedforward_layernorm")
        writer.add_tensor(gguf_name(name), stored.reshape(tensor.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file, folder
