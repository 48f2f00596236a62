"""Everything that a model gives, also as a program that ranks which hold it together run."""

import sys
from pathlib import Path

import numpy as np

import gemma_mlx
from gemma_mlx import Gemma
from gemma_mlx.system.backend import tree_flatten

# Prompts of different lengths, past the sliding window of 7.
PROMPTS = [[2, 5, 9, 4, 7, 30, 31, 32, 90], [2, 8], [2, 17, 3, 3, 11, 40]]
CONTINUATION = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]


def everything(gemma: Gemma) -> dict[str, np.ndarray]:
    """Tokens, all sites at all positions, and logits without and with an intervention."""
    found: dict[str, np.ndarray] = {}
    for positions in ("generated", "prompt_last", "forced"):
        answers = gemma_mlx.generate(
            gemma,
            PROMPTS,
            max_tokens=6,
            sites=tuple(gemma_mlx.SITES),
            positions=positions,
            continuation=CONTINUATION if positions == "forced" else None,
        )
        for number, answer in enumerate(answers):
            found[f"{positions}/{number}/tokens"] = np.array(answer.token_ids)
            for site, array in answer.activations.items():
                if isinstance(array, list):
                    array = np.concatenate([np.zeros(0), *(step.ravel() for step in array)])
                found[f"{positions}/{number}/{site}"] = array
    width = gemma.config.intermediate_size
    direction = np.random.default_rng(0).standard_normal(width)
    with gemma_mlx.intervention.ablate(gemma, "mlp_post", 0, direction):
        found["ablated"] = gemma_mlx.logits(gemma, PROMPTS[:1])
    found["logits"] = gemma_mlx.logits(gemma, PROMPTS[:1])
    return found


def projection_bytes(gemma: Gemma) -> int:
    """What the matrices that are split take in memory."""
    parameters = tree_flatten(gemma.model.parameters())
    return sum(value.nbytes for name, value in parameters if "_proj" in name)


if __name__ == "__main__":
    ranks = gemma_mlx.find_ranks()
    loaded = gemma_mlx.load(sys.argv[1], ranks=ranks)
    np.savez(Path(f"rank_{ranks.rank}.npz"), **everything(loaded))
    print(projection_bytes(loaded))
