"""What the harness asks of a model, whoever computes it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gemma_mlx import Generation, Request
from gemma_mlx.generation import Speaking
from gemma_mlx.intervention import Hooked
from gemma_mlx.request import Shape


class Choice(Protocol):
    """One prompt with several texts that may follow it."""

    def token_log_probs(self) -> list[np.ndarray]:
        """Log-probabilities, in nats, of each text's own tokens after the prompt, under the
        interventions that are on: per text float32 (versions, tokens), one version or as many as
        an intervention with `each` has vectors."""


class Reading(Protocol):
    """Prompts, each with a text that follows it."""

    def log_probs(self) -> list[np.ndarray]:
        """Log-probabilities, in nats, of every token at every step, under the interventions that
        are on, each of one vector: per prompt float32 (steps, vocab)."""


class Model(Hooked, Speaking, Protocol):
    """A loaded model. Interventions of `gemma_mlx.intervention` act on all that it computes."""

    @property
    def config(self) -> Shape: ...

    @property
    def sites(self) -> tuple[str, ...]:
        """Those with a vector in every layer."""

    def check(self, request: Request) -> None:
        """Raise a `gemma_mlx.RequestError` where the model can't serve a request."""

    def plan(self, request: Request, batch_size: int | None) -> list[tuple[int, ...]]:
        """Prompt numbers of each batch; depends on the request and the model's shape alone."""

    def run(self, request: Request, batch: Sequence[int]) -> list[Generation]:
        """Generate for the prompts of these numbers, a batch of `plan`; in their order."""

    def write(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of what the model writes after prompts, greedily, with nothing captured."""

    def read_choice(
        self, prompt: Sequence[int], texts: Sequence[Sequence[int]], *, layer: int = 0
    ) -> Choice:
        """Token ids of a prompt and of texts; interventions will be at `layer` or above."""

    def read_continuations(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        layer: int = 0,
    ) -> Reading:
        """Token ids of prompts and of what follows each; `layer` as for `read_choice`."""

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """Logits (tokens, vocab), float32, of one text."""
