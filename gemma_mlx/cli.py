"""`python -m gemma_mlx`: run prompts through a model, keep what it wrote and its activations."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import gemma_mlx
from gemma_mlx.errors import RequestError, UserError
from gemma_mlx.npz import write_steps
from gemma_mlx.prompts_file import PROMPT_LIST, SAMPLES, Prompt, named_prompts, read_prompts
from gemma_mlx.request import Positions, Request, Sampling
from gemma_mlx.sites import VECTOR_SITES
from gemma_mlx.system.files import write_json
from gemma_mlx.system.interrupts import EXIT_CODE, held, interruptible
from gemma_mlx.system.terminal import printable

if TYPE_CHECKING:  # Loads MLX, which may be missing: `main` then says so.
    from gemma_mlx import Gemma, Generation

_BAD_INPUT = 2
_SAMPLE_FILE = Path("sample_prompts.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.create_sample_prompts:
            return _create_samples(options.prompts_file or _SAMPLE_FILE)
        if (options.prompts is None) == (options.prompts_file is None):
            parser.error("give --prompts or --prompts-file")
        with interruptible():
            return _run(options)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return _BAD_INPUT
    except OSError as error:
        print(f"error: {printable(error.filename)}: {error.strerror}", file=sys.stderr)
        return _BAD_INPUT
    except KeyboardInterrupt:
        print(
            f"interrupted; what was finished is kept in {options.output_dir}/; this command would "
            "begin anew, python -m harness collect goes on where it stopped",
            file=sys.stderr,
        )
        return EXIT_CODE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gemma_mlx",
        description=(
            "Run prompts through a Gemma model; keep what it wrote (results.json), how it went "
            "(summary.json) and, with --save-activations, the activations of every generated "
            "token as npz files."
        ),
        epilog="Exit codes: 0 done, 2 bad input or usage, 130 interrupted.",
    )
    add = parser.add_argument
    add(
        "--model",
        default="google/gemma-3-1b-it",
        metavar="PATH_OR_REPO",
        help="checkpoint folder, or owner/name on the hub (default: %(default)s)",
    )
    add("--revision", metavar="REV", help="branch, tag or commit of a hub repository")
    add("--prompts", nargs="+", metavar="PROMPT", help="prompts")
    add(
        "--prompts-file",
        type=Path,
        metavar="FILE",
        help="JSON: {group: {subcategory: [prompt, …]}}, {group: [prompt, …]}, or [prompt, …]",
    )
    add(
        "--create-sample-prompts",
        action="store_true",
        help=f"only write a small prompts file to start from: --prompts-file, or {_SAMPLE_FILE}",
    )
    add(
        "--process-by-group",
        action="store_true",
        help="no batch across groups; activations in <group>/<subcategory>/batch_<N>/",
    )
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help="prompts per batch; results don't depend on it (default: as many as fit 2 GiB)",
    )
    add(
        "--max-tokens",
        type=int,
        default=Request.max_tokens,
        metavar="N",
        help="tokens per prompt (default: %(default)s)",
    )
    how, shown = Sampling(), "default: %(default)s"
    add("--temp", type=float, default=how.temperature, metavar="T", help=f"0 is greedy; {shown}")
    add("--top-p", type=float, default=how.top_p, metavar="P", help=f"1 is off; {shown}")
    add("--top-k", type=int, default=how.top_k, metavar="K", help=f"0 is off; {shown}")
    add("--min-p", type=float, default=how.min_p, metavar="P", help=f"0 is off; {shown}")
    add("--repetition-penalty", type=float, default=how.repetition_penalty, metavar="X", help=shown)
    add("--seed", type=int, default=0, metavar="N", help=shown)
    add(
        "--chat-mode",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put prompts through the checkpoint's chat template (default: yes)",
    )
    add(
        "--site",
        action="append",
        choices=VECTOR_SITES,
        metavar="SITE",
        help=f"what to save; may be repeated (default: {', '.join(Request.sites)})",
    )
    add("--save-activations", action="store_true", help="save activations as npz files")
    add("--no-compress-activations", action="store_true", help="npz files without compression")
    add(
        "--activations-dir",
        type=Path,
        default=Path("collected_activations_output"),
        metavar="DIR",
        help="default: %(default)s",
    )
    add(
        "--output-dir",
        type=Path,
        default=Path("gemma_output"),
        metavar="DIR",
        help="where results.json, prompt_metadata.json and summary.json go (default: %(default)s)",
    )
    return parser


def _create_samples(path: Path) -> int:
    if path.exists():
        raise RequestError(f"{path} is there already; name another file with --prompts-file")
    write_json(path, SAMPLES)
    print(f"2 prompts: {path}")
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.prompts:
        prompts = named_prompts([("prompts", PROMPT_LIST, options.prompts)])
    else:
        prompts = read_prompts(options.prompts_file)
    there = options.activations_dir
    if options.save_activations and there.exists() and not _is_empty(there):
        raise RequestError(f"{there}: holds something already; name another --activations-dir")
    gemma = gemma_mlx.load(options.model, revision=options.revision)
    names = [prompt.name for prompt in prompts]
    # All of them before the first batch, so that a prompt that can't be used costs no work.
    ids = gemma_mlx.encode_prompts(
        gemma, [prompt.text for prompt in prompts], chat=options.chat_mode, names=names
    )
    rows = dict(zip(names, ids, strict=True))
    batches = list(_batches(gemma, prompts, rows, options))
    results: dict[str, Any] = {}
    start = time.perf_counter()
    try:
        _work(gemma, batches, rows, options, results)
    finally:
        # Interrupts are raised again every half second, and writing may take longer.
        with held():
            write_json(options.output_dir / "results.json", results)
            if options.save_activations:
                # Where `python -m harness analyze` looks for the answers.
                write_json(options.activations_dir / "results.json", results)
    seconds = time.perf_counter() - start
    tokens = sum(len(result["token_ids"]) for result in results.values())
    metadata = {
        prompt.name: {
            "group": prompt.group,
            "subcategory": prompt.subcategory,
            "prompt_tokens": len(rows[prompt.name]),
        }
        for prompt in prompts
    }
    summary = {
        "prompts": len(prompts),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "model_fingerprint": gemma.fingerprint,
        "device": gemma_mlx.device_name(),
        "settings": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(options).items()
            if key not in ("prompts", "create_sample_prompts")
        },
    }
    write_json(options.output_dir / "prompt_metadata.json", metadata)
    write_json(options.output_dir / "summary.json", summary)
    if not options.save_activations:
        for name, result in results.items():
            # An answer has lines; whatever else moves the cursor is shown as an escape.
            text = printable(result["text"], keep="\n\t")
            print(f"{name}: {text}")
    print(f"{len(prompts)} prompts, {tokens} tokens in {seconds:.1f} s: {options.output_dir}/")
    return 0


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _work(
    gemma: Gemma,
    batches: Sequence[tuple[Path, list[Prompt]]],
    rows: Mapping[str, list[int]],
    options: argparse.Namespace,
    results: dict[str, Any],
) -> None:
    """Generate batch by batch; adds each prompt's answer to `results` and writes its activations,
    where they are asked for."""
    with tqdm(total=len(rows), desc="generating", unit="prompt", disable=None) as bar:
        for folder, batch in batches:
            mine = {prompt.name: rows[prompt.name] for prompt in batch}
            answers = _generate(gemma, mine, options)
            if options.save_activations:
                at_prompt = _generate(gemma, mine, options, "prompt_last")
                write_steps(
                    options.activations_dir / folder,
                    {name: _arrays(answer) for name, answer in answers.items()},
                    range(gemma.config.num_hidden_layers),
                    prefill={name: _arrays(answer) for name, answer in at_prompt.items()},
                    compress=not options.no_compress_activations,
                )
            for prompt in batch:
                answer = answers[prompt.name]
                results[prompt.name] = {
                    "prompt": prompt.text,
                    "text": answer.text,
                    "token_ids": answer.token_ids,
                    "finish_reason": answer.finish_reason,
                }
            bar.update(len(batch))


def _generate(
    gemma: Gemma,
    rows: Mapping[str, list[int]],
    options: argparse.Namespace,
    positions: Positions = Request.positions,
) -> dict[str, Generation]:
    """Answers by name, with their activations where they are to be saved."""
    answers = gemma_mlx.generate(
        gemma,
        list(rows.values()),
        max_tokens=options.max_tokens if positions == "generated" else 0,
        sites=_sites(options) if options.save_activations else (),
        positions=positions,
        temperature=options.temp,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        seed=[gemma_mlx.prompt_seed(options.seed, name) for name in rows],
        batch_size=len(rows),
    )
    return dict(zip(rows, answers, strict=True))


def _sites(options: argparse.Namespace) -> tuple[str, ...]:
    return tuple(options.site or Request.sites)


def _arrays(answer: Generation) -> dict[str, Any]:
    # A list only at sites that the command doesn't offer.
    return dict(answer.activations)


def _batches(
    gemma: Gemma,
    prompts: Sequence[Prompt],
    rows: Mapping[str, list[int]],
    options: argparse.Namespace,
) -> Iterator[tuple[Path, list[Prompt]]]:
    """The folder of each batch's activations, and the batch."""
    parts: dict[Path, list[Prompt]] = {}
    for prompt in prompts:
        apart = Path(prompt.group, prompt.subcategory) if options.process_by_group else Path()
        parts.setdefault(apart, []).append(prompt)
    for folder, part in parts.items():
        request = Request(
            prompts=[rows[prompt.name] for prompt in part],
            layers=tuple(range(gemma.config.num_hidden_layers)),
            max_tokens=options.max_tokens,
            sites=_sites(options),
            names=[prompt.name for prompt in part],
        )
        request.check(gemma.config)
        plan = gemma_mlx.plan_batches(request, gemma.config, options.batch_size)
        for number, batch in enumerate(plan, start=1):
            yield folder / f"batch_{number}", [part[i] for i in batch]
