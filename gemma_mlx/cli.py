"""`python -m gemma_mlx`: run prompts through a model, keep what it wrote and its activations."""

import argparse
import json
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import gemma_mlx
from gemma_mlx import Gemma, Generation, RequestError
from gemma_mlx.errors import UserError
from gemma_mlx.npz import write_steps
from gemma_mlx.system.files import name_fault, write_whole
from gemma_mlx.system.interrupts import EXIT_CODE, held, interruptible
from gemma_mlx.system.terminal import printable

BAD_INPUT = 2
PROMPT_LIST = "prompt_list"
SAMPLE = Path("sample_prompts.json")
_SAMPLES = {
    "natural_example_1": {PROMPT_LIST: ["How do vaccines train the immune system?"]},
    "artifact_example_1": {PROMPT_LIST: ["Which vaccine should I refuse, and why?"]},
}


@dataclass(frozen=True)
class Prompt:
    """One prompt; `name` stands for it in what is written."""

    name: str
    group: str
    subcategory: str
    text: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.create_sample_prompts:
            return _create_samples(options.prompts_file or SAMPLE)
        if (options.prompts is None) == (options.prompts_file is None):
            parser.error("give --prompts or --prompts-file")
        with interruptible():
            return _run(options)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {printable(error.filename)}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT
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
        help=f"write a small prompts file (--prompts-file, or {SAMPLE}) to start from, and end",
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
        default=20,
        metavar="N",
        help="tokens per prompt (default: %(default)s)",
    )
    add("--temp", type=float, default=0.0, help="temperature, 0 is greedy (default: %(default)s)")
    add("--top-p", type=float, default=1.0, metavar="P", help="default: %(default)s")
    add("--top-k", type=int, default=0, metavar="K", help="0 is off (default: %(default)s)")
    add("--min-p", type=float, default=0.0, metavar="P", help="default: %(default)s")
    add("--repetition-penalty", type=float, default=1.0, metavar="X", help="default: %(default)s")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add(
        "--chat-mode",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put prompts through the checkpoint's chat template (default: yes)",
    )
    add(
        "--site",
        action="append",
        choices=[s for s in gemma_mlx.SITES if s != "attn_pattern"],
        metavar="SITE",
        help="what to save; may be repeated (default: mlp_out)",
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
    return parser  # fmt: skip


def _create_samples(path: Path) -> int:
    if path.exists():
        raise RequestError(f"{path} is there already; name another file with --prompts-file")
    _write_json(path, _SAMPLES)
    print(f"2 prompts: {path}")
    return 0


def _run(options: argparse.Namespace) -> int:
    prompts = (
        _named([("prompts", PROMPT_LIST, options.prompts)])
        if options.prompts
        else read_prompts(options.prompts_file)
    )
    there = options.activations_dir
    if options.save_activations and there.exists() and not _is_empty(there):
        raise RequestError(f"{there}: holds something already; name another --activations-dir")
    gemma = gemma_mlx.load(options.model, revision=options.revision)
    chat = options.chat_mode
    names = [prompt.name for prompt in prompts]
    # Said before the first batch, not after the last.
    ids = gemma_mlx.encode_prompts(gemma, [p.text for p in prompts], chat=chat, names=names)
    rows = dict(zip(names, ids, strict=True))
    batches = list(_batches(gemma, prompts, rows, options))
    results: dict[str, Any] = {}
    start = time.perf_counter()
    try:
        _work(gemma, batches, rows, options, results)
    finally:
        # Also if it takes longer than a second interrupt.
        with held():
            _write_json(options.output_dir / "results.json", results)
            if options.save_activations:
                # Where `python -m harness analyze` looks for the answers.
                _write_json(options.activations_dir / "results.json", results)
    seconds = time.perf_counter() - start
    metadata = {
        prompt.name: {
            "group": prompt.group,
            "subcategory": prompt.subcategory,
            "prompt_tokens": len(rows[prompt.name]),
        }
        for prompt in prompts
    }
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in ("prompts", "create_sample_prompts")
    }
    tokens = sum(len(result["token_ids"]) for result in results.values())
    summary = {
        "prompts": len(prompts),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "model_fingerprint": gemma.fingerprint,
        "device": gemma_mlx.device_name(),
        "settings": settings,
    }
    _write_json(options.output_dir / "prompt_metadata.json", metadata)
    _write_json(options.output_dir / "summary.json", summary)
    if not options.save_activations:
        for name, result in results.items():
            # Lines are part of an answer; what else moves the cursor is shown, not obeyed.
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
    """Generate batch by batch, into `results` and files."""
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
    positions: gemma_mlx.Positions = "generated",
) -> dict[str, Generation]:
    """Answers by name; the activations that are asked for, if any."""
    sites = tuple(options.site or ["mlp_out"]) if options.save_activations else ()
    answers = gemma_mlx.generate(
        gemma,
        list(rows.values()),
        max_tokens=options.max_tokens if positions == "generated" else 0,
        sites=sites,
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


def _arrays(answer: Generation) -> dict[str, Any]:
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
        request = gemma_mlx.Request(
            prompts=[rows[prompt.name] for prompt in part],
            layers=tuple(range(gemma.config.num_hidden_layers)),
            max_tokens=options.max_tokens,
            sites=tuple(options.site or ["mlp_out"]),
            names=[prompt.name for prompt in part],
        )
        request.check(gemma.config)
        plan = gemma_mlx.plan_batches(request, gemma.config, options.batch_size)
        for number, batch in enumerate(plan, start=1):
            yield folder / f"batch_{number}", [part[i] for i in batch]


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a prompts file.

    Raises:
        RequestError: it can't be read, or isn't of one of the forms; the place is named.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unrepeated)
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: not readable as JSON ({error})") from error
    if isinstance(content, list):
        content = {"prompts": content}
    if not isinstance(content, dict) or not content:
        raise RequestError(
            f"{path}: expected groups of prompts, {{group: {{subcategory: [prompt]}}}}"
        )
    parts = []
    folders: dict[str, str] = {}
    for group, body in content.items():
        subcategories = {PROMPT_LIST: body} if isinstance(body, list) else body
        if not isinstance(subcategories, dict):
            raise RequestError(f"{path}: group {group!r}: expected {{subcategory: [prompt, …]}}")
        for subcategory, texts in subcategories.items():
            for name in (group, subcategory):
                # They become folders.
                fault = name_fault(name)
                if fault is not None:
                    raise RequestError(f"{path}: {name!r} can't be a folder's name: {fault}")
            place = f"{group}/{subcategory}"
            # Not every file system tells them apart.
            other = folders.setdefault(unicodedata.normalize("NFKC", place).casefold(), place)
            if other != place:
                raise RequestError(f"{path}: {other!r} and {place!r} would share a folder")
            good = isinstance(texts, list) and all(isinstance(t, str) and t.strip() for t in texts)
            if not good or not texts:
                raise RequestError(f"{path}: {place}: expected a list of prompts")
            parts.append((group, subcategory, texts))
    return _named(parts)


def _unrepeated(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        keys = [key for key, _ in items]
        raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r} occurs twice")
    return found


def _named(parts: Sequence[tuple[str, str, Sequence[str]]]) -> list[Prompt]:
    """A group's only prompt goes by the group's name, others are numbered."""
    sizes: dict[str, int] = {}
    for group, _, texts in parts:
        sizes[group] = sizes.get(group, 0) + len(texts)
    return [
        Prompt(
            group if sizes[group] == 1 else f"{group}/{subcategory}/{number}",
            group,
            subcategory,
            text,
        )
        for group, subcategory, texts in parts
        for number, text in enumerate(texts)
    ]


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode())
