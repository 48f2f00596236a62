"""What is collected: the embedded checkpoint, random weights of larger shapes, prompts for them."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import gemma_mlx
from benchmarks.page import machine
from fixtures import real_gemma, real_smollm
from fixtures.train_adapter import TEMPLATE
from gemma_mlx import Checkpoint, Gemma, GemmaConfig, Request
from gemma_mlx.system.backend import mx, tree_flatten
from harness.backends.choice import find_checkpoint, load_model
from harness.backends.gemma import GemmaBackend
from harness.backends.gguf import LlamaGguf
from harness.backends.model import Model
from harness.data import embedded
from harness.data.pairs import Pair, PromptPairs, load_pairs

TOKENS = 20
EMBEDDED = Path(embedded.locate(embedded.MODEL))
#: Gemma 3 270M's.
LARGE: dict[str, int] = {
    "vocab_size": 262_144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
}
#: A Llama of the embedded checkpoint's size.
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 144,
    "intermediate_size": 576,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Workload:
    """A checkpoint and prompts in batches; `few` are the prompts for what takes one at a time."""

    name: str
    path: Path
    model: Model
    batches: list[list[list[int]]]
    few: list[list[int]]

    @property
    def prompts(self) -> list[list[int]]:
        return [prompt for batch in self.batches for prompt in batch]

    @property
    def gemma(self) -> Gemma:
        """The model, where it is one of `gemma_mlx`."""
        assert isinstance(self.model, GemmaBackend)
        return self.model.gemma


def embedded_workload(count: int, batch_size: int | None) -> Workload:
    """So many prompts for the embedded checkpoint."""
    name = "the embedded aligned checkpoint (8 layers, hidden 144)"
    return _workload(name, EMBEDDED, count, batch_size, few=count)


def large_workload(folder: Path, count: int, batch_size: int | None) -> Workload:
    """So many prompts for random weights, which are written to `folder`."""
    path = random_checkpoint(folder / "large", LARGE)
    name = "random weights of Gemma 3 270M's shape (18 layers, hidden 640)"
    return _workload(name, path, count, batch_size, few=10)


def real_workload(folder: Path, count: int, batch_size: int | None) -> Workload:
    """So many prompts for Gemma 3 270M, whose weights are written to `folder` as float32."""
    gguf = gemma_mlx.find_checkpoint(real_gemma.fetch(), chat_template=TEMPLATE)
    gemma = gemma_mlx.load_checkpoint(gguf)
    config = {name: getattr(gemma.config, name) for name in LARGE} | {
        "model_type": "gemma3_text",
        # transformers takes whole numbers only.
        "query_pre_attn_scalar": round(gemma.config.query_pre_attn_scalar),
        "rms_norm_eps": gemma.config.rms_norm_eps,
        "sliding_window_pattern": gemma.config.layer_types.index("full_attention") + 1,
        "max_position_embeddings": 2048,
        "rope_theta": gemma.config.global_rope.base,
        "rope_local_base_freq": gemma.config.local_rope.base,
    }
    path = folder / "real"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    weights = dict(tree_flatten(gemma.model.parameters()))
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    tokenizer = gguf.read_tokenizer()
    tokenizer.chat_template = TEMPLATE.read_text(encoding="utf-8")
    tokenizer.save_pretrained(path)
    name = "Gemma 3 270M, base (18 layers, hidden 640), float32"
    return _workload(name, path, count, batch_size, few=10)


def llama_workload(folder: Path, count: int, batch_size: int | None) -> Workload:
    """So many prompts for a Llama of random weights, which are written to `folder`."""
    path = folder / "llama"
    path.mkdir()
    for file in EMBEDDED.glob("tokenizer*"):
        shutil.copy(file, path)
    config = {**LLAMA, "vocab_size": gemma_mlx.find_checkpoint(EMBEDDED).config.vocab_size}
    _write_llama(path, config, None)
    name = "a Llama of random weights (8 layers, hidden 144)"
    return _language_workload(name, path, count, batch_size)


def smollm_workload(folder: Path, count: int, batch_size: int | None) -> Workload:
    """So many prompts for SmolLM2-135M-Instruct, whose weights are written to `folder` as
    float32."""
    gguf = find_checkpoint(real_smollm.fetch())
    assert isinstance(gguf, LlamaGguf)
    assert gguf.chat_template
    path = folder / "smollm"
    tokenizer = gguf.read_tokenizer()
    tokenizer.chat_template = gguf.chat_template.text
    tokenizer.save_pretrained(path)
    _write_llama(path, gguf.normalised_config(), gguf)
    return _language_workload(
        "SmolLM2-135M-Instruct (30 layers, hidden 576), float32", path, count, batch_size
    )


def _write_llama(path: Path, config: Mapping[str, Any], gguf: LlamaGguf | None) -> None:
    """A checkpoint of the weights in a GGUF file, or of mlx-lm's initial ones."""
    from mlx_lm.models.llama import Model as Llama
    from mlx_lm.models.llama import ModelArgs

    if gguf is None:
        mx.random.seed(0)
        weights = dict(tree_flatten(Llama(ModelArgs.from_dict(config)).parameters()))
    else:
        weights = {name: mx.array(values) for name, values in gguf.tensors()}
    (path / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})


def _language_workload(name: str, path: Path, count: int, batch_size: int | None) -> Workload:
    from harness.backends.mlx_lm import LanguageModel

    model = load_model(find_checkpoint(path), dtype="float32")
    assert isinstance(model, LanguageModel)
    endless = replace(model, eos_token_ids=frozenset())
    return _planned(name, path, endless, count, batch_size, few=0)


def _workload(name: str, path: Path, count: int, batch_size: int | None, *, few: int) -> Workload:
    # Without end tokens every contender does the same work.
    gemma = replace(gemma_mlx.load(path, dtype="float32"), eos_token_ids=frozenset())
    return _planned(name, path, GemmaBackend(gemma), count, batch_size, few=few)


def _planned(
    name: str, path: Path, model: Model, count: int, batch_size: int | None, *, few: int
) -> Workload:
    prompts = prompt_ids(model, count)
    layers = tuple(range(model.config.num_hidden_layers))
    plan = model.plan(Request(prompts=prompts, layers=layers, max_tokens=TOKENS), batch_size)
    batches = [[prompts[i] for i in batch] for batch in plan]
    return Workload(name, path, model, batches, prompts[:: max(1, count // max(1, few))][:few])


def prompt_ids(model: Model, count: int) -> list[list[int]]:
    """The prompts of the pairs file; random ids of the same lengths without a tokenizer."""
    texts = list(load_pairs(embedded.PAIRS).prompts().values())
    # Evenly over the categories.
    texts = [texts[i * len(texts) // count % len(texts)] for i in range(count)]
    if model.tokenizer is not None:
        return gemma_mlx.encode_prompts(model, texts)
    rng = np.random.default_rng(0)
    # About one token per word and the eight of the chat template, as in Gemma's vocabulary.
    return [rng.integers(3, model.config.vocab_size, len(t.split()) + 10).tolist() for t in texts]


def repeated_pairs(count: int) -> PromptPairs:
    """So many pairs: the embedded ones, over and over."""
    few = list(load_pairs(embedded.PAIRS))
    repeated = (few[i % len(few)] for i in range(count))
    pairs = (
        Pair(p.category, f"{p.id}_{number:05d}", p.natural, p.artifact)
        for number, p in enumerate(repeated)
    )
    return PromptPairs(tuple(pairs), {}, source="the embedded pairs, repeated")


def endless_checkpoint(path: Path, shape: dict[str, int] | None = None) -> Checkpoint:
    """A checkpoint that writes every token it is asked for, made in a folder that isn't there yet.

    The embedded one, or random weights of another shape with its tokenizer. The end token is one
    that isn't written.
    """
    if shape is None:
        shutil.copytree(EMBEDDED, path)
    else:
        random_checkpoint(path, shape)
        for file in EMBEDDED.glob("tokenizer*"):
            shutil.copy(file, path)
    config = json.loads((path / "config.json").read_text())
    config["eos_token_id"] = 0
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").unlink(missing_ok=True)
    return Checkpoint(path)


def random_checkpoint(path: Path, shape: dict[str, int]) -> Path:
    """Random weights of this shape and no tokenizer, in a folder that isn't there yet."""
    config: dict[str, Any] = {
        "model_type": "gemma3_text",
        "sliding_window_pattern": 6,
        "max_position_embeddings": 2048,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "rms_norm_eps": 1e-6,
        **shape,
    }
    hidden, inner, width = (config[k] for k in ("hidden_size", "intermediate_size", "head_dim"))
    queries = config["num_attention_heads"] * width
    keys = config["num_key_value_heads"] * width
    shapes = {"model.embed_tokens": (config["vocab_size"], hidden), "model.norm": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.self_attn.q_proj": (queries, hidden),
            f"{block}.self_attn.k_proj": (keys, hidden),
            f"{block}.self_attn.v_proj": (keys, hidden),
            f"{block}.self_attn.o_proj": (hidden, queries),
            f"{block}.self_attn.q_norm": (width,),
            f"{block}.self_attn.k_norm": (width,),
            f"{block}.mlp.gate_proj": (inner, hidden),
            f"{block}.mlp.up_proj": (inner, hidden),
            f"{block}.mlp.down_proj": (hidden, inner),
        } | {
            f"{block}.{name}_layernorm": (hidden,)
            for name in ("input", "post_attention", "pre_feedforward", "post_feedforward")
        }
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    weights = {f"{k}.weight": 0.03 * mx.random.normal(s) for k, s in shapes.items()}
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    return path


def machine_with_mlx() -> str:
    """The machine, and what MLX computes on."""
    blas = gemma_mlx.BLAS or "as built into MLX"
    return f"{machine('MLX')} on the {gemma_mlx.device_name()}, BLAS {blas}"


def operations(work: Workload) -> float:
    """Floating-point operations that collecting takes, multiplications and additions counted apart.

    Every weight of a linear layer is used once for every token that is read, every one of the head
    once for every token that is written; the last block and the head of a prompt work on its last
    token alone. Attention's own products are left out: with so few tokens they are below 1%.
    """
    config = work.gemma.config
    shapes = dict(tree_flatten(work.gemma.model.parameters()))
    linear = sum(v.size for k, v in shapes.items() if k.endswith("proj.weight"))
    last = sum(
        v.size for k, v in shapes.items() if k.endswith("proj.weight") and _of_last(k, config)
    )
    head = config.vocab_size * config.hidden_size
    read = sum(len(prompt) for prompt in work.prompts)
    count = len(work.prompts)
    return 2.0 * ((linear - last) * read + last * count + (linear + head) * count * TOKENS)


def _of_last(key: str, config: GemmaConfig) -> bool:
    """Whether a weight of the last block is used for a prompt's last token alone."""
    last = key.startswith(f"model.layers.{config.num_hidden_layers - 1}.")
    return last and "k_proj" not in key and "v_proj" not in key


def peak_operations(seconds: float = 3.0) -> float:
    """Operations per second of a product of large float32 matrices on MLX's default device."""
    size, best = 2048, 0.0
    a, b = (mx.random.normal((size, size)) for _ in range(2))
    mx.eval(a, b)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        mx.eval(a @ b)
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best


def tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Prompt and generated tokens."""
    return sum(len(prompt) + TOKENS for prompt in prompts)
