"""Gemma 2 and 3 as the harness asks for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import gemma_mlx
from gemma_mlx import VECTOR_SITES, Gemma, Generation, Request
from gemma_mlx.config import GemmaConfig
from gemma_mlx.models.gemma import Intervention
from gemma_mlx.tokenizer import GemmaTokenizer


@dataclass(frozen=True)
class GemmaBackend:
    """A `harness.backends.model.Model` that `gemma_mlx` computes."""

    gemma: Gemma

    @property
    def config(self) -> GemmaConfig:
        return self.gemma.config

    @property
    def tokenizer(self) -> GemmaTokenizer | None:
        return self.gemma.tokenizer

    @property
    def interventions(self) -> list[Intervention]:
        return self.gemma.interventions

    @property
    def sites(self) -> tuple[str, ...]:
        return VECTOR_SITES

    def width(self, site: str, layer: int) -> int:
        return self.gemma.width(site, layer)

    def check(self, request: Request) -> None:
        request.check(self.config)

    def plan(self, request: Request, batch_size: int | None) -> list[tuple[int, ...]]:
        return gemma_mlx.plan_batches(request, self.config, batch_size)

    def run(self, request: Request, batch: Sequence[int]) -> list[Generation]:
        return gemma_mlx.run_batch(self.gemma, request, batch)

    def write(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        return [each.token_ids for each in gemma_mlx.generate(self.gemma, prompts, sites=())]

    def read_choice(
        self, prompt: Sequence[int], texts: Sequence[Sequence[int]], *, layer: int = 0
    ) -> gemma_mlx.Choice:
        return gemma_mlx.read_choice(self.gemma, prompt, texts, layer=layer)

    def read_continuations(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        layer: int = 0,
    ) -> gemma_mlx.Reading:
        return gemma_mlx.read_continuations(self.gemma, prompts, continuations, layer=layer)

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        return gemma_mlx.logits(self.gemma, [token_ids])[0]
