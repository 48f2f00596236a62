"""Run the prompts through the model, batch by batch, into the store.

Several processes of one launch (`gemma_mlx.Ranks`) share the batches of a run, or hold the model
together. Each writes what it has run into its own store first, which may or may not lie on the same
disk as the others'; then the first rank takes what its store lacks.
"""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, replace
from functools import partial
from importlib.metadata import version
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any

import gemma_mlx
from gemma_mlx import ALONE, Checkpoint, Ranks, RanksError
from harness.backends.choice import backend_identity
from harness.data.pairs import CONDITIONS, PromptPairs
from harness.data.store import Response, RunStore, StoreError
from harness.progress import ON_TERMINAL, SILENT, Bars
from harness.prompted import Prompted
from harness.settings import CollectSettings

#: Raised when our own code gives something else for the same request (the plan of its batches, the
#: model's arithmetic), so that old stores aren't taken for new ones.
CODE_VERSION = 1


def collect(
    checkpoint: Checkpoint,
    pairs: PromptPairs,
    settings: CollectSettings,
    root: Path,
    *,
    again: bool = False,
    name: str = "",
    bars: Bars = ON_TERMINAL,
    whose: str = "",
    writer: Checkpoint | None = None,
    ranks: Ranks = ALONE,
) -> RunStore:
    """The run of these pairs through this model: from the store, or collected into it now.

    The model is loaded only if something is missing. An interrupted collection goes on with the
    batches that it still lacks; damaged ones are deleted, with a warning, and collected again.
    A whole run that holds more layers or sites is taken as it is.
    Several processes may call this at once: one collects, the others wait and read. With positions
    "forced", both prompts of a pair are followed by the answer that the natural one got, which is
    collected first, from this model or from `writer`.

    Args:
        root: the store's directory; each run has its own directory in it.
        again: delete what the store has of this run, and collect it anew.
        name: what the store calls the model, by default its path.
        bars: shows the progress over prompts.
        whose: what the bar calls the model, beside the positions.
        writer: the model whose answers are read at positions "forced", if it is another one; of it
            nothing is deleted.
        ranks: the processes that collect together; all of them call this, and the first one has
            the whole run afterwards.

    Raises:
        gemma_mlx.CheckpointError, gemma_mlx.RequestError: model or request can't be used; also
            where the tokens of the writer's answers are other words to this model.
        gemma_mlx.RanksError: a rank is gone, or was started with something else.
        harness.data.store.StoreError: the store can't be written or read.
    """
    bars = _of_launch(bars, ranks)
    continuation = None
    if settings.positions == "forced":
        # With the same sites it is the run that the checks are about, and collected only once.
        free = replace(settings, positions="generated")
        own = writer is None
        run = collect(
            writer or checkpoint,
            pairs,
            free,
            root,
            again=again and own,
            name=name if own else "",
            bars=bars,
            whose=whose if own else "",
            ranks=ranks,
        )
        answers = ranks.share(
            {group: astuple(answer) for group, answer in run.responses().items()}
            if ranks.first
            else None
        )[0]
        continuation = {
            pair.group(condition): Response(*answers[pair.group("natural")])
            for pair in pairs
            for condition in CONDITIONS
        }
    prompts = pairs.prompts()
    about = {"model": name or str(checkpoint.path), "pairs": pairs.source}
    run = RunStore(root, _identity(checkpoint, prompts, settings, continuation), about=about)
    _check_agreement({**run.settings, "recollect": again}, ranks)
    if not again:
        wider = ranks.share(_whole_wider(run, bars) if ranks.first else None)[0]
        if wider is not None:
            return RunStore(root, wider, reused=1.0)
    backend = Prompted(checkpoint, prompts, settings, continuation, ranks)
    shown = partial(
        bars,
        desc=f"collecting {settings.positions}{whose and f', {whose}'}",
        unit="prompt",
    )
    with _locked(run, ranks, bars):
        run.sweep()
        if again:
            # Nothing goes before it is sure that it can be collected.
            backend.prepare()
            run.clear()
        plan = _agreed_plan(run, backend, ranks)
        return replace(run, reused=_fill(run, plan, backend, ranks, shown))


def _identity(
    checkpoint: Checkpoint,
    prompts: Mapping[str, str],
    settings: CollectSettings,
    continuation: Mapping[str, Response] | None,
) -> dict[str, Any]:
    """Everything that decides what a run holds, as JSON values."""
    return {
        "model": checkpoint.fingerprint,
        "prompts": prompts,
        "continuation": continuation
        and {group: response.token_ids for group, response in continuation.items()},
        "device": gemma_mlx.device_name(),
        "code": CODE_VERSION,
        "mlx": version("mlx"),
        "blas": gemma_mlx.BLAS,
        **backend_identity(checkpoint),
        **asdict(settings),
    }


def _whole_wider(run: RunStore, bars: Bars) -> Mapping[str, Any] | None:
    """Settings of a whole run of the store that holds this one and more; None if there is none, or
    this one is there itself."""
    if run.complete():
        return None
    for wider in run.wider():
        waiting = "another process is looking through this run; waiting for it"
        with wider.locked(waiting, bars=bars):
            if not wider.missing():
                return wider.settings
    return None


def _check_agreement(asked: dict[str, Any], ranks: Ranks) -> None:
    """Raise a `RanksError` unless all ranks were asked for the same."""
    first, *others = ranks.share(asked)
    for rank, other in enumerate(others, start=1):
        different = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if different:
            raise RanksError(f"rank {rank} differs from rank 0 in {', '.join(different)}")


@contextmanager
def _locked(run: RunStore, ranks: Ranks, bars: Bars) -> Iterator[None]:
    """Hold the run's lock; ranks on one disk hold it together."""
    job = ranks.share(uuid.uuid4().hex)[0] if ranks.size > 1 else ""
    with ExitStack() as stack:
        for rank in range(ranks.size):
            if rank == ranks.rank:
                waiting = "another process is collecting this run; waiting for it"
                stack.enter_context(run.locked(waiting, job=job, bars=bars))
            # One after the other, so that the next one finds the lock of this one.
            ranks.share(None)
        yield


def _agreed_plan(run: RunStore, backend: Prompted, ranks: Ranks) -> list[list[str]]:
    """The run's batches, the same in every rank's store."""
    mine = run.plan()
    plans = ranks.share(mine)
    plan = next((plan for plan in plans if plan is not None), None) or backend.plan()
    if mine is None:
        run.begin(plan)
    elif mine != plan:
        raise StoreError(f"{run.path}: another plan than another rank's; move the directory away")
    return plan


def _fill(
    run: RunStore,
    plan: Sequence[Sequence[str]],
    backend: Prompted,
    ranks: Ranks,
    bars: Bars,
) -> float:
    """Collect what the first rank lacks; returns the share of the prompts that it had."""
    # Ranks that hold the model together run every batch together.
    together = backend.together
    lacking = ranks.share(run.missing())
    mine = lacking[ranks.rank]
    dealt = [lacking[0]] * ranks.size if together else _deal(lacking)
    prompts = sum(map(len, plan))
    there = prompts - sum(len(plan[batch]) for batch in lacking[0])
    with (bars if there < prompts else SILENT)(total=prompts, initial=there) as bar:
        for turn in zip_longest(*dealt):
            batch = turn[ranks.rank]
            if together or batch in mine:
                records = backend.run(plan[batch])
                if ranks.first or not together:
                    run.write(batch, records)
            if not together:
                _hand_over(run, batch, ranks)
            bar.update(sum(len(plan[batch]) for batch in set(turn) - {None}))
    return there / prompts


def _of_launch(bars: Bars, ranks: Ranks) -> Bars:
    """The first rank's bars alone."""
    if ranks.size == 1:
        return bars
    # mlx.launch reads from pipes, and hands on the width of its terminal if it has one.
    return partial(bars, disable=False) if ranks.first and "COLUMNS" in os.environ else SILENT


def _deal(lacking: Sequence[Sequence[int]]) -> list[list[int]]:
    """Batches that each rank brings, so that the first will lack none: those it has already, and
    its share of those that nobody has.

    Args:
        lacking: batches that aren't there, by rank.
    """
    dealt: list[list[int]] = [[] for _ in lacking]
    turns = cycle(range(len(lacking)))
    for batch in lacking[0]:
        having = [rank for rank, absent in enumerate(lacking) if batch not in absent]
        dealt[having[0] if having else next(turns)].append(batch)
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
