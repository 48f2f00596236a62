"""Run the prompts through the model, batch by batch, into the store.

Several processes of one launch (`gemma_mlx.Ranks`) share the batches of a run, or hold the model
together. Each writes what it has run into its own store first, which may or may not lie on the same
disk as the others'; then the first rank takes what its store lacks.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm

import gemma_mlx
from gemma_mlx import (
    ALONE,
    Checkpoint,
    CheckpointError,
    Gemma,
    Ranks,
    RanksError,
    Request,
    RequestError,
)
from harness.data.pairs import CONDITIONS, PromptPairs
from harness.data.store import Record, Response, RunStore, StoreError
from harness.settings import CollectSettings

#: Raised when our own code gives something else for the same request (the plan of its batches, the
#: model's arithmetic), so that old stores aren't taken for new ones.
_CODE_VERSION = 1


def collect(
    checkpoint: Checkpoint,
    pairs: PromptPairs,
    settings: CollectSettings,
    root: Path,
    *,
    again: bool = False,
    progress: bool = True,
    ranks: Ranks = ALONE,
) -> RunStore:
    """The run of these pairs through this model: from the store, or collected into it now.

    The model is loaded only if something is missing. An interrupted collection goes on with the
    batches that it still lacks, and several processes may call this at once: one collects, the
    others wait and read. With positions "forced", both prompts of a pair are followed by the
    answer that the natural one got, which is collected first.

    Args:
        root: the store's directory; each run has its own directory in it.
        again: collect anew even what the store has.
        progress: show a progress bar over prompts on a terminal.
        ranks: the processes that collect together; all of them call this, and the first one has
            the whole run afterwards.

    Raises:
        gemma_mlx.CheckpointError, gemma_mlx.RequestError: model or request can't be used.
        gemma_mlx.RanksError: a rank is gone, or was started with something else.
        harness.data.store.StoreError: the store can't be written or read.
    """
    continuation = None
    if settings.positions == "forced":
        # With the same sites it is the run that the checks are about, and collected only once.
        free = replace(settings, positions="generated")
        answers = collect(
            checkpoint, pairs, free, root, again=again, progress=progress, ranks=ranks
        )
        continuation = ranks.share(_natural_answers(answers, pairs) if ranks.first else None)[0]
    prompts = pairs.prompts()
    run = RunStore(root, _identity(checkpoint, prompts, settings, continuation))
    _check_agreement({**run.settings, "recollect": again}, ranks)
    work = _Work(checkpoint, prompts, settings, continuation, ranks)
    with _locked(run, ranks):
        run.sweep()
        if again:
            # Nothing goes before it is sure that it can be collected.
            _ = work.request
            run.clear()
        reused = _fill(run, _agreed_plan(run, work), work, progress)
    return replace(run, reused=reused)


def _identity(
    checkpoint: Checkpoint,
    prompts: Mapping[str, str],
    settings: CollectSettings,
    continuation: Mapping[str, Sequence[int]] | None,
) -> dict[str, Any]:
    """Everything that decides what a collection gives."""
    return {
        "model": checkpoint.fingerprint,
        "prompts": dict(sorted(prompts.items())),
        "continuation": {g: list(c) for g, c in continuation.items()} if continuation else None,
        "device": gemma_mlx.device_name(),
        "code": _CODE_VERSION,
        "mlx": version("mlx"),
        "blas": gemma_mlx.BLAS,
        **asdict(settings),
    }


@dataclass(frozen=True)
class _Work:
    """The prompts of a run and the model, which is loaded when it is first needed."""

    checkpoint: Checkpoint
    prompts: Mapping[str, str]
    settings: CollectSettings
    continuation: Mapping[str, Sequence[int]] | None
    ranks: Ranks

    @property
    def together(self) -> bool:
        """Whether the ranks hold the model together, and each batch is everyone's."""
        return self.settings.tensor_parallel > 1

    @cached_property
    def gemma(self) -> Gemma:
        wanted, there = self.settings.tensor_parallel, self.ranks.size
        if self.together:
            self.checkpoint.config.check_split(wanted)
        if self.together and wanted != there:
            raise RequestError(
                f"{wanted} processes are to hold this model together (--tensor-parallel), and "
                f"{'there is 1' if there == 1 else f'there are {there}'}. What the store lacks is "
                f"collected with `mlx.launch -n {wanted} -- python -m harness collect "
                f"--tensor-parallel {wanted} --model {self.checkpoint.path} --positions generated "
                "--positions forced --positions prompt_last` and the same other options"
            )
        if not self.checkpoint.has_tokenizer:
            raise CheckpointError(f"{self.checkpoint.path}: no tokenizer.json or tokenizer.model")
        return gemma_mlx.load_checkpoint(
            self.checkpoint,
            dtype=self.settings.dtype,
            ranks=self.ranks if self.together else ALONE,
        )

    @cached_property
    def groups(self) -> list[str]:
        return sorted(self.prompts)

    @cached_property
    def request(self) -> Request:
        settings, gemma, groups = self.settings, self.gemma, self.groups
        texts = [self.prompts[g] for g in groups]
        request = Request(
            prompts=gemma_mlx.encode_prompts(gemma, texts, chat=settings.chat, names=groups),
            max_tokens=settings.max_tokens,
            sites=settings.sites,
            layers=settings.layers or tuple(range(gemma.config.num_hidden_layers)),
            positions=settings.positions,
            sampling=settings.sampling,
            seeds=[gemma_mlx.prompt_seed(settings.seed, g) for g in groups],
            continuation=[self.continuation[g] for g in groups] if self.continuation else None,
            names=groups,
        )
        request.check(gemma.config)
        return request

    def plan(self) -> list[list[str]]:
        """Groups of each batch."""
        size = self.settings.batch_size
        batches = gemma_mlx.plan_batches(self.request, self.gemma.config, size)
        return [[self.groups[i] for i in batch] for batch in batches]

    def run(self, batch: Sequence[str]) -> dict[str, Record]:
        """What the model gives for the prompts of these groups."""
        number_of = {group: number for number, group in enumerate(self.groups)}
        generations = gemma_mlx.run_batch(
            self.gemma, self.request, [number_of[group] for group in batch]
        )
        if self.together:
            # Also shows that no rank was lost meanwhile, and its part made up by MLX.
            tokens = self.ranks.share([g.token_ids for g in generations])
            if any(other != tokens[0] for other in tokens):
                raise RanksError("the ranks of one model chose different tokens")
        return {
            group: Record(Response(tuple(g.token_ids), g.text, g.finish_reason), g.activations)
            for group, g in zip(batch, generations, strict=True)
        }


def _check_agreement(asked: Mapping[str, Any], ranks: Ranks) -> None:
    """Whether all ranks were asked for the same."""
    facts = {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for name, value in asked.items()
    }
    first, *others = ranks.share(facts)
    for rank, other in enumerate(others, start=1):
        different = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if different:
            raise RanksError(f"rank {rank} differs from rank 0 in {', '.join(different)}")


@contextmanager
def _locked(run: RunStore, ranks: Ranks) -> Iterator[None]:
    """Hold the run's lock; ranks on one disk hold it together."""
    job = ranks.share(uuid.uuid4().hex)[0] if ranks.size > 1 else ""
    with ExitStack() as stack:
        for rank in range(ranks.size):
            if rank == ranks.rank:
                waiting = "another process is collecting this run; waiting for it"
                stack.enter_context(run.locked(waiting, job=job))
            # One after the other, so that the next one finds the lock of this one.
            ranks.share(None)
        yield


def _agreed_plan(run: RunStore, work: _Work) -> list[list[str]]:
    """The run's batches, the same in every rank's store."""
    mine = run.plan()
    plans = work.ranks.share(mine)
    plan = next((plan for plan in plans if plan is not None), None) or work.plan()
    if mine is None:
        run.begin(plan)
    elif mine != plan:
        raise StoreError(f"{run.path}: another plan than another rank's; move the directory away")
    return plan


def _fill(run: RunStore, plan: Sequence[Sequence[str]], work: _Work, progress: bool) -> float:
    """Bring what the first rank lacks; returns the share of the prompts that was there."""
    ranks = work.ranks
    lacking = ranks.share(run.missing())
    mine = lacking[ranks.rank]
    dealt = [lacking[0]] * ranks.size if work.together else _deal(lacking)
    prompts = sum(map(len, plan))
    there = prompts - sum(len(plan[batch]) for batch in lacking[0])
    with tqdm(
        total=prompts,
        initial=there,
        desc="collecting activations",
        unit="prompt",
        disable=_without_bar(progress, ranks),
    ) as bar:
        for turn in zip_longest(*dealt):
            batch = turn[ranks.rank]
            if work.together or batch in mine:
                records = work.run(plan[batch])
                if ranks.first or not work.together:
                    run.write(batch, records)
            if not work.together:
                _hand_over(run, batch, ranks)
            bar.update(sum(len(plan[batch]) for batch in set(turn) - {None}))
    return there / prompts


def _without_bar(progress: bool, ranks: Ranks) -> bool | None:
    """Whether tqdm is to show nothing; None leaves it to tqdm."""
    if not (progress and ranks.first):
        return True
    # mlx.launch reads from pipes, and hands on the width of its terminal if it has one.
    return None if ranks.size == 1 else "COLUMNS" not in os.environ


def _deal(lacking: Sequence[Sequence[int]]) -> list[list[int]]:
    """Batches that each rank brings, so that the first will lack none: those it has already, then
    its share of those that nobody has. `lacking`: batches that aren't there, by rank."""
    nobody = set(lacking[0]).intersection(*lacking)
    dealt: list[list[int]] = [[] for _ in lacking]
    for batch in sorted(set(lacking[0]) - nobody):
        dealt[next(rank for rank, absent in enumerate(lacking) if batch not in absent)].append(
            batch
        )
    for number, batch in enumerate(sorted(nobody)):
        dealt[number % len(lacking)].append(batch)
    return dealt


def _hand_over(run: RunStore, batch: int | None, ranks: Ranks) -> None:
    """Give the first rank the shard of `batch`, unless it can see it in its own store."""
    shard = None if batch is None else run.shards().get(batch)
    names = ranks.share(shard and shard.name)
    absent = [name for name in names if name and not (run.path / name).exists()]
    absent = ranks.share(absent)[0]
    if absent:
        contents = ranks.gather(shard.read_bytes() if shard and shard.name in absent else b"")
        if ranks.first:
            for name, content in zip(names, contents, strict=True):
                if name in absent:
                    run.receive(name, content)


def _natural_answers(run: RunStore, pairs: PromptPairs) -> dict[str, Sequence[int]]:
    answers = run.responses()
    return {
        pair.group(condition): answers[pair.group("natural")].token_ids
        for pair in pairs
        for condition in CONDITIONS
    }
