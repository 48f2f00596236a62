"""Ways to generate, with capture of activations and without."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gemma_mlx
from benchmarks.workloads import TOKENS, Workload
from gemma_mlx import Request
from gemma_mlx.cache import BatchCache
from gemma_mlx.system.backend import mx

Contender = Callable[[], Sequence[Sequence[int]]]
"""Does its work and returns the prompts that it did it for."""


def ours(work: Workload, sites: tuple[str, ...], max_tokens: int = TOKENS) -> Contender:
    layers = tuple(range(work.model.config.num_hidden_layers))

    def run() -> list[list[int]]:
        for batch in work.batches:
            asked = Request(prompts=batch, layers=layers, sites=sites, max_tokens=max_tokens)
            work.model.run(asked, range(len(batch)))
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
    """The way of the original project: one prompt, one step, one npz file, and the next step."""
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
