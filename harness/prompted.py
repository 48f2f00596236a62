"""The prompts of one run and the model that reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import gemma_mlx
from gemma_mlx import ALONE, Checkpoint, Ranks, Request
from gemma_mlx.errors import RanksError, RequestError
from harness.backends.choice import load_model
from harness.backends.model import Model
from harness.data.store import Record, Response
from harness.settings import CollectSettings


@dataclass(frozen=True)
class Prompted:
    """A checkpoint and the prompts of one run, which go by the names of their groups.

    Making one is cheap: the model is loaded by the first method that needs it. With
    `settings.tensor_parallel` above 1 the `ranks` hold the model together, and each of them has to
    make the same calls.

    Attributes:
        continuation: the answer that follows each group's prompt, where positions are "forced".
    """

    checkpoint: Checkpoint
    prompts: Mapping[str, str]
    settings: CollectSettings
    continuation: Mapping[str, Response] | None = None
    ranks: Ranks = ALONE

    def prepare(self) -> None:
        """Load the model and check the request, if that wasn't done yet.

        Raises:
            gemma_mlx.CheckpointError: the checkpoint is damaged, has no tokenizer, or can't be
                split over that many processes.
            gemma_mlx.RequestError: a prompt, site or layer that the model can't serve, answers
                whose tokens are other words to it, or not as many processes as are to hold it.
        """
        _ = self._request

    def plan(self) -> list[list[str]]:
        """Groups of each batch, prompts of similar length together, every group in one of them.

        Depends on the request and the model's shape alone, not on the machine; raises what
        `prepare` does.
        """
        batches = self._model.plan(self._request, self.settings.batch_size)
        return [[self._groups[i] for i in batch] for batch in batches]

    def run(self, batch: Sequence[str]) -> dict[str, Record]:
        """What the model gives for the prompts of these groups, a batch of `plan`.

        Raises:
            gemma_mlx.RanksError: ranks that hold the model together chose different tokens, or one
                is gone.
        """
        number_of = {group: number for number, group in enumerate(self._groups)}
        generations = self._model.run(self._request, [number_of[group] for group in batch])
        if self.together:
            # Also shows that no rank was lost meanwhile, and its part made up by MLX.
            tokens = self.ranks.share([g.token_ids for g in generations])
            if any(other != tokens[0] for other in tokens):
                raise RanksError("the ranks of one model chose different tokens")
        return {
            group: Record(Response(tuple(g.token_ids), g.text, g.finish_reason), g.activations)
            for group, g in zip(batch, generations, strict=True)
        }

    @property
    def together(self) -> bool:
        """Whether the ranks hold the model together."""
        return self.settings.tensor_parallel > 1

    @cached_property
    def _model(self) -> Model:
        if self.together:
            self._check_processes()
        ranks = self.ranks if self.together else ALONE
        return load_model(self.checkpoint, dtype=self.settings.dtype, ranks=ranks)

    def _check_processes(self) -> None:
        """Raise unless the model can be split over the processes wanted, and these are there."""
        wanted, there = self.settings.tensor_parallel, self.ranks.size
        self.checkpoint.config.check_split(wanted)
        if wanted != there:
            raise RequestError(
                f"{wanted} processes are to hold this model together (--tensor-parallel), and "
                f"{'there is 1' if there == 1 else f'there are {there}'}. What the store lacks is "
                f"collected with `mlx.launch -n {wanted} -- python -m harness collect "
                f"--tensor-parallel {wanted} --model {self.checkpoint.path} --positions generated "
                "--positions forced --positions prompt_last` and the same other options; a base "
                "model by `--base-model` beside the model that is held against it"
            )

    @cached_property
    def _groups(self) -> list[str]:
        return sorted(self.prompts)

    def _answers(self) -> list[Sequence[int]] | None:
        if self.continuation is None:
            return None
        assert self._model.tokenizer is not None
        answers = [self.continuation[group] for group in self._groups]
        for answer in answers:
            read = self._model.tokenizer.decode(answer.token_ids)
            if read != answer.text:
                raise RequestError(
                    f"{self.checkpoint.path}: the tokens of the answer {answer.text!r} are "
                    f"{read!r} to this model; a base model needs the model's own vocabulary"
                )
        return [answer.token_ids for answer in answers]

    @cached_property
    def _request(self) -> Request:
        settings, model, groups = self.settings, self._model, self._groups
        texts = [self.prompts[g] for g in groups]
        request = Request(
            prompts=gemma_mlx.encode_prompts(model, texts, chat=settings.chat, names=groups),
            max_tokens=settings.max_tokens,
            sites=settings.sites,
            layers=settings.layers or tuple(range(model.config.num_hidden_layers)),
            positions=settings.positions,
            sampling=settings.sampling,
            seeds=[gemma_mlx.prompt_seed(settings.seed, g) for g in groups],
            continuation=self._answers(),
            names=groups,
        )
        model.check(request)
        return request
