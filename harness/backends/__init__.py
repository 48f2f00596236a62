"""What collecting needs of a model, and the models that have it."""

from collections.abc import Sequence
from typing import Protocol

from harness.data.store import Record


class Backend(Protocol):
    """A model with the prompts of one run, which go by the names of their groups.

    Making one is cheap: the model is loaded by the first method that needs it.
    """

    def prepare(self) -> None:
        """Load the model and check the request, if that wasn't done yet.

        Raises:
            gemma_mlx.errors.UserError: model or request can't be used.
        """

    def plan(self) -> list[list[str]]:
        """Groups of each batch, every group in one of them; raises what `prepare` does.

        Depends on the request and the model's shape alone, not on the machine.
        """

    def run(self, batch: Sequence[str]) -> dict[str, Record]:
        """What the model gives for these groups, a batch of `plan`; raises what `prepare` does."""
