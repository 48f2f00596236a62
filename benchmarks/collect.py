"""Time collection of activations against what people use today.

    python -m benchmarks.collect                 both checkpoints: about a quarter of an hour
    python -m benchmarks.collect --only small    the small one: a few minutes
    python -m benchmarks.collect --scaling       cost and memory by number of prompts
    python -m benchmarks.collect --steps         what each way of saving time is worth

Prints Markdown tables. Every contender reads the same prompts in the same batches, generates
exactly 20 tokens for each (no end token) and computes in float32. Runs are interleaved, so that
what else the machine does falls on all of them; a ratio is the median over rounds of the ratio
within one round. The cost of capture is measured first, in pairs of runs of its own: threads that
another library leaves spinning would fall on one of the two. mlx-lm runs in this process too, on
the BLAS that `gemma_mlx` loads.
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

import gemma_mlx
from gemma_mlx import Gemma, Request
from gemma_mlx.cache import BatchCache
from gemma_mlx.models import activation
from gemma_mlx.models.gemma import GemmaModel
from gemma_mlx.system.backend import mx
from harness.settings import CollectSettings

TOKENS = 20
FIXTURES = Path(__file__).parents[1] / "fixtures"
SMALL: dict[str, Any] = {
    "vocab_size": 1536,
    "hidden_size": 144,
    "intermediate_size": 288,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 32,
}
LARGE: dict[str, Any] = {
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


@dataclass(frozen=True)
class Workload:
    """A checkpoint and prompts in batches; `few` are the prompts for what takes one at a time."""

    name: str
    path: Path
    gemma: Gemma
    batches: list[list[list[int]]]
    few: list[list[int]]

    @property
    def prompts(self) -> list[list[int]]:
        return [prompt for batch in self.batches for prompt in batch]


def tokens(prompts: Sequence[Sequence[int]]) -> int:
    """Prompt and generated tokens."""
    return sum(len(prompt) + TOKENS for prompt in prompts)


# --- contenders -------------------------------------------------------------------------------

Contender = Callable[[], Sequence[Sequence[int]]]
"""Does its work and returns the prompts that it did it for."""


def ours(work: Workload, sites: tuple[str, ...], max_tokens: int = TOKENS) -> Contender:
    layers = tuple(range(work.gemma.config.num_hidden_layers))

    def run() -> list[list[int]]:
        for batch in work.batches:
            asked = Request(prompts=batch, layers=layers, sites=sites, max_tokens=max_tokens)
            gemma_mlx.run_batch(work.gemma, asked, range(len(batch)))
        return work.prompts

    return run


def mlx_lm(work: Workload) -> Contender:
    """mlx-lm's continuous batching, without capture, on one of our batches at a time."""
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.utils import load_model

    model, _ = load_model(work.path)
    model.set_dtype(mx.float32)

    def run() -> list[list[int]]:
        for batch in work.batches:
            size = len(batch)
            generator = BatchGenerator(
                model, max_tokens=TOKENS, completion_batch_size=size, prefill_batch_size=size
            )
            generator.insert(batch)
            made = 0
            while responses := generator.next_generated():
                made += len(responses)
            generator.close()
            assert made == size * TOKENS
        return work.prompts

    return run


def one_at_a_time(work: Workload, folder: Path) -> Contender:
    """The way this project began: one prompt, one step, one npz file, and the next step."""
    model, config = work.gemma.model, work.gemma.config

    def run() -> list[list[int]]:
        for number, prompt in enumerate(work.few):
            group = folder / str(number)
            group.mkdir(exist_ok=True)
            cache = BatchCache(config, padding=[0], capacity=len(prompt) + TOKENS)
            token = mx.argmax(model.logits(model(mx.array([prompt]), cache)[:, -1]), axis=-1)
            for step in range(TOKENS):
                held: dict[str, mx.array] = {}

                def hook(site: str, layer: int, x: mx.array, held: Any = held) -> mx.array:
                    if site == "mlp_out":
                        held[gemma_mlx.SITES[site].npz_key(layer)] = x
                    return x

                hidden = model(token[:, None], cache, hook)
                token = mx.argmax(model.logits(hidden[:, -1]), axis=-1)
                mx.eval(token, held)
                arrays: Any = {key: np.array(value) for key, value in held.items()}
                np.savez(group / f"activations_step_{step}.npz", **arrays)
        return work.few

    return run


def transformers(work: Workload) -> Contender:
    """PyTorch on the CPU, left-padded batches, a forward hook on every MLP."""
    import torch
    from transformers import Gemma3ForCausalLM

    model = Gemma3ForCausalLM.from_pretrained(work.path, dtype=torch.float32).eval()
    held: list[np.ndarray] = []
    for block in model.model.layers:
        block.mlp.register_forward_hook(lambda _, __, out: held.append(out[:, -1].numpy().copy()))

    def run() -> list[list[int]]:
        for batch in work.batches:
            width = max(map(len, batch))
            ids = torch.tensor([[0] * (width - len(row)) + row for row in batch])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
            with torch.no_grad():
                made = model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=TOKENS,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            assert made.shape[1] == width + TOKENS
            held.clear()
        return work.prompts

    return run


# --- workloads --------------------------------------------------------------------------------


def small_workload(folder: Path, count: int, batch_size: int | None) -> Workload:
    path = FIXTURES / "tiny-gemma3-aligned"
    name = "the embedded aligned checkpoint"
    if not (path / "model.safetensors").exists():
        path, name = random_checkpoint(folder / "small", SMALL), "random weights of its shape"
    gemma = endless(gemma_mlx.load(path, dtype="float32"))
    return workload(f"{name} (8 layers, hidden 144)", path, gemma, count, batch_size, few=count)


def large_workload(folder: Path, count: int, batch_size: int | None) -> Workload:
    path = random_checkpoint(folder / "large", LARGE)
    gemma = endless(gemma_mlx.load(path, dtype="float32"))
    name = "random weights of Gemma 3 270M's shape (18 layers, hidden 640)"
    return workload(name, path, gemma, count, batch_size, few=10)


def endless(gemma: Gemma) -> Gemma:
    """A model without end tokens, so that every contender does the same work."""
    return replace(gemma, eos_token_ids=frozenset())


def workload(
    name: str, path: Path, gemma: Gemma, count: int, batch_size: int | None, *, few: int
) -> Workload:
    prompts = prompt_ids(gemma, count)
    layers = tuple(range(gemma.config.num_hidden_layers))
    plan = gemma_mlx.plan_batches(
        Request(prompts=prompts, layers=layers, max_tokens=TOKENS), gemma.config, batch_size
    )
    batches = [[prompts[i] for i in batch] for batch in plan]
    return Workload(name, path, gemma, batches, prompts[:: max(1, count // few)][:few])


def prompt_ids(gemma: Gemma, count: int) -> list[list[int]]:
    """The prompts of the pairs file; random ids of the same lengths without a tokenizer."""
    root = json.loads((FIXTURES / "alignment_artifact_prompt_pairs.json").read_text())
    texts = [
        pair[condition]
        for category in root["alignment_artifact_prompt_pairs"]["categories"].values()
        for pair in category["pairs"]
        for condition in ("natural", "artifact")
    ]
    # Evenly over the categories.
    texts = [texts[i * len(texts) // count % len(texts)] for i in range(count)]
    if gemma.tokenizer is not None:
        return gemma_mlx.encode_prompts(gemma, texts)
    rng = np.random.default_rng(0)
    # About one token per word and the eight of the chat template, as in Gemma's vocabulary.
    return [rng.integers(3, gemma.config.vocab_size, len(t.split()) + 10).tolist() for t in texts]


def random_checkpoint(path: Path, shape: dict[str, Any]) -> Path:
    config = {
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


# --- measuring --------------------------------------------------------------------------------


def interleaved(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Tokens per second of each contender in each round, after one round to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        # Everyone goes first in turn.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            done = contenders[name]()
            seconds = time.perf_counter() - start
            if number:
                rates[name].append(tokens(done) / seconds)
                print(f"  {name}: {rates[name][-1]:.0f} tokens/s", file=sys.stderr, flush=True)
    return rates


def compare(work: Workload, folder: Path, rounds: int, torch: bool) -> str:
    capture = "with capture of mlp_out"
    # Capture reads the last token too, which generation alone has no need to: asked for one token
    # more, it makes the same passes.
    alone: dict[str, Contender] = {
        capture: ours(work, ("mlp_out",)),
        "without capture": ours(work, ()),
        "without capture, reading the last token too": ours(work, (), TOKENS + 1),
    }
    own = interleaved(alone, 2 * rounds)
    contenders: dict[str, Contender] = {
        capture: ours(work, ("mlp_out",)),
        "mlx-lm's batch generation, no capture": mlx_lm(work),
        "one prompt at a time, npz per step": one_at_a_time(work, folder),
    }
    if torch:
        contenders["transformers, hooks, batched"] = transformers(work)
    rates = interleaved(contenders, rounds)
    sizes = ", ".join(str(len(batch)) for batch in work.batches)
    lines = [
        f"**{work.name}**: {len(work.prompts)} prompts of "
        f"{min(map(len, work.prompts))} to {max(map(len, work.prompts))} tokens, "
        f"batches of {sizes}; {rounds} rounds, {2 * rounds} for the cost of capture",
        "",
        "| | tokens/s, median (range) | capture is faster by |",
        "|---|---|---|",
    ]
    for name, found, beside in [
        *((name, found, own[capture]) for name, found in own.items()),
        *((name, found, rates[capture]) for name, found in rates.items() if name != capture),
    ]:
        ratio = "" if name == capture else f"{ratio_of(beside, found):.2f}×"
        lines.append(f"| {name} | {speed(found)} | {ratio} |")
    return "\n".join(lines)


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def speed(rates: Sequence[float]) -> str:
    return f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


# --- what each step is worth ------------------------------------------------------------------


def steps(work: Workload, rounds: int) -> str:
    """Tokens per second with one way of saving time taken out at a time."""
    every = ours(work, ("mlp_out",))
    rng = np.random.default_rng(0)
    prompts = [work.prompts[i] for i in rng.permutation(len(work.prompts))]
    as_they_come = [prompts[start : start + 64] for start in range(0, len(prompts), 64)]
    model = GemmaModel.__call__

    def without(target: Any, name: str, instead: Any) -> Contender:
        def changed() -> Sequence[Sequence[int]]:
            with patch.object(target, name, instead):
                return every()

        return changed

    def all_columns(self: Any, *arguments: Any, last: int | None = None, **how: Any) -> mx.array:
        return model(self, *arguments, **how)

    def all_logits(self: Any, tokens: mx.array, *arguments: Any, **how: Any) -> mx.array:
        hidden = all_columns(self, tokens, *arguments, **how)
        if tokens.shape[1] > 1:
            mx.eval(self.logits(hidden))
        return hidden

    contenders: dict[str, Contender] = {
        "nothing: as it is": every,
        "batches of prompts of like length": ours(
            replace(work, batches=as_they_come), ("mlp_out",)
        ),
        "the last block for the last column alone": without(GemmaModel, "__call__", all_columns),
        "that, and logits for the last column alone": without(GemmaModel, "__call__", all_logits),
        "a tanh of products and sums": without(activation, "_tanh", plain_tanh),
        "building a step while the last one runs": without(mx, "async_eval", mx.eval),
    }
    rates = interleaved(contenders, rounds)
    lines = [
        f"**{work.name}**: {len(work.prompts)} prompts, {rounds} rounds",
        "",
        "| without | tokens/s, median (range) | what it buys |",
        "|---|---|---|",
    ]
    whole = next(iter(rates.values()))
    for name, found in rates.items():
        gain = "" if found is whole else f"{ratio_of(whole, found):.2f}×"
        lines.append(f"| {name} | {speed(found)} | {gain} |")
    return "\n".join(lines)


def plain_tanh(x: mx.array) -> mx.array:
    return mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


# --- scaling ----------------------------------------------------------------------------------


def scaling(counts: Sequence[int]) -> str:
    """Each count in a process of its own, for its peak memory."""
    lines = [
        "| pairs | prompts | seconds | ms per prompt | MLX's peak memory | process's peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for pairs in counts:
        command = [sys.executable, "-m", "benchmarks.collect", "--stream", str(pairs)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        lines.append(
            f"| {pairs} | {2 * pairs} | {found['seconds']:.2f} "
            f"| {1000 * found['seconds'] / (2 * pairs):.2f} "
            f"| {found['mlx'] / 2**20:.0f} MiB | {found['process'] / 2**20:.0f} MiB |"
        )
    return "\n".join(lines)


def stream(pairs: int) -> dict[str, float]:
    """Collect `pairs` pairs into a store."""
    from harness.collect import collect
    from harness.data.pairs import Pair, PromptPairs, load_pairs

    few = list(load_pairs(FIXTURES / "alignment_artifact_prompt_pairs.json"))
    many = tuple(
        Pair(p.category, f"{p.id}_{i}", p.natural, p.artifact)
        for i, p in ((i, few[i % len(few)]) for i in range(pairs))
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_workload(folder, 4, None)
        path = FIXTURES / "tiny-gemma3-aligned"
        if not (path / "model.safetensors").exists():
            path = FIXTURES / "tiny-gemma3-base"
        checkpoint = gemma_mlx.find_checkpoint(path)
        chat = checkpoint.chat_template_fingerprint is not None
        mx.reset_peak_memory()
        start = time.perf_counter()
        prompts = PromptPairs(many, {})
        collect(checkpoint, prompts, CollectSettings(chat=chat), folder / "store", progress=False)
        seconds = time.perf_counter() - start
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": seconds,
        "mlx": mx.get_peak_memory(),
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
    }


# --- command line -----------------------------------------------------------------------------


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}; Python "
        f"{platform.python_version()}, MLX {mx.__version__} on the {gemma_mlx.device_name()}, "
        f"BLAS {gemma_mlx.BLAS or 'as built into MLX'}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=("small", "large"), help="one of the two checkpoints")
    parser.add_argument("--prompts", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, help="default: gemma_mlx's own plan")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--no-torch", action="store_true", help="leave transformers out")
    parser.add_argument("--scaling", action="store_true", help="cost by number of prompts instead")
    parser.add_argument("--steps", action="store_true", help="what each step is worth instead")
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stream:
        print(json.dumps(stream(options.stream)))
        return 0
    print(machine(), end="\n\n", flush=True)
    if options.scaling:
        print(scaling((50, 100, 400, 1600)))
        return 0
    for name, make in (("small", small_workload), ("large", large_workload)):
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                work = make(Path(folder), options.prompts, options.batch_size)
                table = (
                    steps(work, options.rounds)
                    if options.steps
                    else compare(work, Path(folder), options.rounds, not options.no_torch)
                )
            print(table, end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
