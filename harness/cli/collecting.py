"""`prepare` and `collect`: from prompt pairs to activations."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import gemma_mlx
from gemma_mlx import RequestError
from gemma_mlx.system.files import write_whole
from harness import options
from harness.data import npz_layout
from harness.data.pairs import load_pairs
from harness.experiment import Collection
from harness.results.provenance import origin
from harness.testing.plan import make_plan

RUNNER_INPUT = Path("prompts_for_gemma_runner.json")
OUTPUT = Path("collected_activations_output")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    prepare = commands.add_parser(
        "prepare",
        help="prompt pairs to input for python -m gemma_mlx",
        description=(
            "Write every prompt of the pairs as a group of its own, "
            '{"natural_<category>_<id>": {"prompt_list": [prompt]}, …}, as python -m gemma_mlx '
            "--process-by-group takes them. collect doesn't need this step."
        ),
    )
    options.add_arguments(prepare, ["pairs"])
    prepare.add_argument(
        "--output",
        type=Path,
        default=RUNNER_INPUT,
        metavar="FILE",
        help="where to write (default: %(default)s)",
    )
    prepare.set_defaults(run=_prepare)

    collect = commands.add_parser(
        "collect",
        help="prompt pairs to activations",
        description=(
            "Run the prompts through the model and keep the activations of every generated token. "
            "An interrupted collection goes on where it stopped, and what the store has isn't "
            "collected again. Under mlx.launch the processes share the work, on one machine or "
            "several, and the first one has the whole run afterwards."
        ),
    )
    options.add_arguments(
        collect,
        [
            "model", "revision", "pairs", "site", "layers", "positions", "max_tokens", "no_chat",
            "tensor_parallel", "store", "recollect",
        ],
    )  # fmt: skip
    collect.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="prompts per batch; results don't depend on it (default: as many as fit 2 GiB)",
    )
    collect.add_argument(
        "--layout",
        choices=("native", "npz"),
        default="native",
        help="npz: also write one activations_step_<N>.npz per token of the first --positions",
    )
    collect.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="DIR",
        help="directory of the npz layout (default: %(default)s)",
    )
    collect.add_argument(
        "--no-compress-activations", action="store_true", help="npz files without compression"
    )
    collect.set_defaults(run=_collect)


def _prepare(parsed: argparse.Namespace) -> int:
    pairs = load_pairs(options.read(options.CommandLine(parsed), "pairs"))
    prompts = {group: {npz_layout.SUBCATEGORY: [p]} for group, p in pairs.prompts().items()}
    content = json.dumps(prompts, indent=2, ensure_ascii=False)
    write_whole(parsed.output, f"{content}\n".encode())
    print(f"{len(prompts)} prompts: {parsed.output}")
    return 0


def _collect(parsed: argparse.Namespace) -> int:
    ranks = gemma_mlx.find_ranks()
    plan = make_plan(options.CommandLine(parsed), least_pairs=1)
    npz = parsed.layout == "npz"
    if npz and plan.collection.positions == "prompt_last":
        raise RequestError(
            "--layout npz holds tokens that were read after the prompt; it has the "
            "prompts' last tokens beside them, with any other --positions"
        )
    collection = Collection(
        gemma_mlx.find_checkpoint(plan.model, revision=plan.revision),
        plan.pairs,
        replace(plan.collection, batch_size=parsed.batch_size),
        plan.store,
        again=plan.recollect,
        ranks=ranks,
    )
    for positions in (plan.collection.positions, *plan.companions):
        run = collection.collect(positions)
        if ranks.first:
            found = origin(run)["origin"]
            print(f"{positions}: {2 * len(plan.pairs)} prompts in {run.path}, {found}")
        if npz and positions == plan.collection.positions:
            prefill = collection.collect("prompt_last")
            if ranks.first:
                npz_layout.write_npz(
                    run,
                    plan.pairs,
                    parsed.output,
                    layers=plan.layers,
                    sites=plan.collection.sites,
                    prefill=prefill,
                    compress=not parsed.no_compress_activations,
                )
                print(f"npz files: {parsed.output}/")
    return 0
