"""`python -m gemma_mlx`: run prompts through a model, keep what it wrote and its activations."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import gemma_mlx
from gemma_mlx.errors import CheckpointError, RequestError, UserError
from gemma_mlx.npz import write_steps
from gemma_mlx.prompts_file import PROMPT_LIST, SAMPLES, Prompt, named_prompts, read_prompts
from gemma_mlx.request import Request, Sampling
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

    def add(flag: str, metavar: str | None = None, **options: Any) -> None:
        """Add an option, which shows its default if it has one."""
        if metavar:
            options["metavar"] = metavar
        if metavar and "default" in options:
            options["help"] += " (default: %(default)s)"
        parser.add_argument(flag, **options)

    add(
        "--model",
        "PATH_OR_REPO",
        default="google/gemma-3-1b-it",
        help="checkpoint folder, .gguf file, or owner/name on the hub",
    )
    add("--revision", "REV", help="branch, tag or commit of a hub repository")
    add("--adapter", "PATH_OR_REPO", help="adapter (mlx-lm's or PEFT's) trained on the model")
    add("--chat-template", "FILE", type=Path, help="Jinja file in place of the model's own")
    add("--prompts", "PROMPT", nargs="+", help="prompts")
    add(
        "--prompts-file",
        "FILE",
        type=Path,
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
    add("--batch-size", "N", type=int, help="prompts per batch (default: as many as fit 2 GiB)")
    add("--max-tokens", "N", type=int, default=Request.max_tokens, help="tokens per prompt")
    add("--temp", "T", type=float, default=Sampling.temperature, help="0 is greedy")
    add("--top-p", "P", type=float, default=Sampling.top_p, help="1 is off")
    add("--top-k", "K", type=int, default=Sampling.top_k, help="0 is off")
    add("--min-p", "P", type=float, default=Sampling.min_p, help="0 is off")
    add(
        "--repetition-penalty",
        "X",
        type=float,
        default=Sampling.repetition_penalty,
        help="1 is off",
    )
    add("--seed", "N", type=int, default=0, help="of the random numbers")
    add(
        "--chat-mode",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put prompts through the checkpoint's chat template (default: yes)",
    )
    add(
        "--site",
        "SITE",
        action="append",
        choices=VECTOR_SITES,
        help=f"what to save; may be repeated (default: {', '.join(Request.sites)})",
    )
    add("--save-activations", action="store_true", help="save activations as npz files")
    add("--no-compress-activations", action="store_true", help="npz files without compression")
    output, activations = Path("gemma_output"), Path("collected_activations_output")
    add("--activations-dir", "DIR", type=Path, default=activations, help="where the npz files go")
    add("--output-dir", "DIR", type=Path, default=output, help="where the *.json files go")
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
    checkpoint = gemma_mlx.find_checkpoint(
        options.model,
        revision=options.revision,
        adapter=options.adapter,
        chat_template=options.chat_template,
    )
    # Said first, of a folder that is no checkpoint at all.
    _ = checkpoint.config
    if options.chat_mode and checkpoint.chat_template is None:
        raise CheckpointError(
            f"{checkpoint.path}: no chat template; give one with --chat-template FILE, or turn it "
            "off with --no-chat-mode, as base models want"
        )
    gemma = gemma_mlx.load_checkpoint(checkpoint)
    # All of them before the first batch, so that a prompt that can't be used costs no work.
    requests = _requests(gemma, prompts, options)
    batches = [
        (there / folder / f"batch_{number}", request, batch)
        for folder, request in requests.items()
        for number, batch in enumerate(
            gemma_mlx.plan_batches(request, gemma.config, options.batch_size), start=1
        )
    ]
    answers: dict[str, Generation] = {}
    start = time.perf_counter()
    try:
        with tqdm(total=len(prompts), desc="generating", unit="prompt", disable=None) as bar:
            for folder, request, batch in batches:
                answers.update(_work(gemma, request, batch, folder, options))
                bar.update(len(batch))
    finally:
        # Interrupts are raised again every half second, and writing may take longer.
        with held():
            results = {
                prompt.name: {
                    "prompt": prompt.text,
                    "text": answers[prompt.name].text,
                    "token_ids": answers[prompt.name].token_ids,
                    "finish_reason": answers[prompt.name].finish_reason,
                }
                for prompt in prompts
                if prompt.name in answers
            }
            write_json(options.output_dir / "results.json", results)
            if options.save_activations:
                # Where `python -m harness analyze` looks for the answers.
                write_json(options.activations_dir / "results.json", results)
    seconds = time.perf_counter() - start
    tokens = sum(len(answer.token_ids) for answer in answers.values())
    metadata = {
        prompt.name: {
            "group": prompt.group,
            "subcategory": prompt.subcategory,
            "prompt_tokens": len(answers[prompt.name].prompt),
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
        for name, answer in answers.items():
            # An answer has lines; whatever else moves the cursor is shown as an escape.
            text = printable(answer.text, keep="\n\t")
            print(f"{name}: {text}")
    print(f"{len(prompts)} prompts, {tokens} tokens in {seconds:.1f} s: {options.output_dir}/")
    return 0


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _requests(
    gemma: Gemma, prompts: Sequence[Prompt], options: argparse.Namespace
) -> dict[Path, Request]:
    """What is asked of the model, by the folder of the activations."""
    parts: dict[Path, list[Prompt]] = {}
    for prompt in prompts:
        folder = Path(prompt.group, prompt.subcategory) if options.process_by_group else Path()
        parts.setdefault(folder, []).append(prompt)
    cut = (options.top_p, options.top_k, options.min_p)
    how = Sampling(options.temp, *cut, options.repetition_penalty)
    requests = {}
    for folder, part in parts.items():
        names = [prompt.name for prompt in part]
        texts = [prompt.text for prompt in part]
        requests[folder] = Request(
            gemma_mlx.encode_prompts(gemma, texts, chat=options.chat_mode, names=names),
            layers=tuple(range(gemma.config.num_hidden_layers)),
            max_tokens=options.max_tokens,
            sites=tuple(options.site or Request.sites),
            sampling=how,
            seeds=[gemma_mlx.prompt_seed(options.seed, name) for name in names],
            names=names,
        )
        requests[folder].check(gemma.config)
    return requests


def _work(
    gemma: Gemma, request: Request, batch: Sequence[int], folder: Path, options: argparse.Namespace
) -> dict[str, Generation]:
    """Answers to one batch, whose activations go into `folder` if they are asked for."""
    if not options.save_activations:
        return _generate(gemma, replace(request, sites=()), batch)
    answers = _generate(gemma, request, batch)
    at_prompt = replace(request, positions="prompt_last", max_tokens=0)
    write_steps(
        folder,
        _arrays(answers),
        request.layers,
        prefill=_arrays(_generate(gemma, at_prompt, batch)),
        compress=not options.no_compress_activations,
    )
    return {name: replace(answer, activations={}) for name, answer in answers.items()}


def _generate(gemma: Gemma, request: Request, batch: Sequence[int]) -> dict[str, Generation]:
    names = [request.names[number] for number in batch]
    return dict(zip(names, gemma_mlx.run_batch(gemma, request, batch), strict=True))


def _arrays(answers: Mapping[str, Generation]) -> dict[str, dict[str, Any]]:
    # Lists only at sites that the command doesn't offer.
    return {name: dict(answer.activations) for name, answer in answers.items()}
