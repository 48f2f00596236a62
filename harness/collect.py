"""Run the prompts through the model, batch by batch, into the store."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import gemma_mlx
from gemma_mlx import Checkpoint, CheckpointError, Positions, Request, Sampling
from harness.pairs import CONDITIONS, PromptPairs
from harness.store import Record, Response, RunStore

#: Raised when the way batches are planned changes, so that old stores aren't taken for new ones.
_PLAN_VERSION = 1


@dataclass(frozen=True)
class CollectSettings:
    """What to collect; every field is part of the run's key. Names as in `gemma_mlx.generate`.

    `layers` empty means all layers.
    """

    sites: tuple[str, ...] = ("mlp_out",)
    layers: tuple[int, ...] = ()
    positions: Positions = "generated"
    max_tokens: int = 20
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    batch_size: int | None = None
    chat: bool = True
    dtype: str | None = None


def collect(
    checkpoint: Checkpoint,
    pairs: PromptPairs,
    settings: CollectSettings,
    root: Path,
    *,
    again: bool = False,
    progress: bool = True,
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

    Raises:
        gemma_mlx.CheckpointError, gemma_mlx.RequestError: model or request can't be used.
        harness.store.StoreError: the store can't be written or read.
    """
    continuation = None
    if settings.positions == "forced":
        # With the same sites it is the run that the checks are about, and collected only once.
        free = replace(settings, positions="generated")
        answers = collect(checkpoint, pairs, free, root, again=again, progress=progress)
        continuation = _natural_answers(answers, pairs)
    prompts = pairs.prompts()
    run = RunStore(root, _identity(checkpoint, prompts, settings, continuation))
    with run.locked("another process is collecting this run; waiting for it"):
        run.sweep()
        if again:
            run.clear()
        reused = run.plan() is not None and not run.missing()
        if not reused:
            _fill(run, checkpoint, prompts, settings, continuation, progress)
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
        "plan": _PLAN_VERSION,
        **asdict(settings),
    }


def _fill(
    run: RunStore,
    checkpoint: Checkpoint,
    prompts: Mapping[str, str],
    settings: CollectSettings,
    continuation: Mapping[str, Sequence[int]] | None,
    progress: bool,
) -> None:
    if not checkpoint.has_tokenizer:
        raise CheckpointError(f"{checkpoint.path}: no tokenizer.json or tokenizer.model")
    gemma = gemma_mlx.load_checkpoint(checkpoint, dtype=settings.dtype)
    groups = sorted(prompts)
    request = Request(
        prompts=gemma_mlx.encode_prompts(
            gemma, [prompts[g] for g in groups], chat=settings.chat, names=groups
        ),
        max_tokens=settings.max_tokens,
        sites=settings.sites,
        layers=settings.layers or tuple(range(gemma.config.num_hidden_layers)),
        positions=settings.positions,
        sampling=settings.sampling,
        seeds=[gemma_mlx.prompt_seed(settings.seed, g) for g in groups],
        continuation=[continuation[g] for g in groups] if continuation else None,
        names=groups,
    )
    request.check(gemma.config)
    if run.plan() is None:
        batches = gemma_mlx.plan_batches(request, gemma.config, settings.batch_size)
        run.begin([[groups[i] for i in batch] for batch in batches])
    plan = run.plan()
    assert plan is not None
    missing = run.missing()
    number_of = {group: number for number, group in enumerate(groups)}
    with tqdm(
        total=len(groups),
        initial=len(groups) - sum(len(plan[i]) for i in missing),
        desc="collecting activations",
        unit="prompt",
        disable=None if progress else True,
    ) as bar:
        for batch in missing:
            generations = gemma_mlx.run_batch(gemma, request, [number_of[g] for g in plan[batch]])
            run.write(
                batch,
                {
                    group: Record(
                        Response(tuple(g.token_ids), g.text, g.finish_reason), g.activations
                    )
                    for group, g in zip(plan[batch], generations, strict=True)
                },
            )
            bar.update(len(plan[batch]))


def _natural_answers(run: RunStore, pairs: PromptPairs) -> dict[str, Sequence[int]]:
    answers = run.responses()
    return {
        pair.group(condition): answers[pair.group("natural")].token_ids
        for pair in pairs
        for condition in CONDITIONS
    }
