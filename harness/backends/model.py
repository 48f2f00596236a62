"""What the harness asks of a model, whoever computes it."""

from collections.abc import Sequence
from typing import Protocol

from gemma_mlx import Generation, Request
from gemma_mlx.generation import Speaking
from gemma_mlx.intervention import Hooked
from gemma_mlx.request import Shape


class Model(Hooked, Speaking, Protocol):
    """A loaded model. Interventions of `gemma_mlx.intervention` act on all that it computes."""

    @property
    def config(self) -> Shape: ...

    def check(self, request: Request) -> None:
        """Raise a `gemma_mlx.RequestError` where the model can't serve a request."""

    def plan(self, request: Request, batch_size: int | None) -> list[tuple[int, ...]]:
        """Prompt numbers of each batch; depends on the request and the model's shape alone."""

    def run(self, request: Request, batch: Sequence[int]) -> list[Generation]:
        """Generate for the prompts of these numbers, a batch of `plan`; in their order."""
