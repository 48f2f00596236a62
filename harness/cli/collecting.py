"""`collect`: from prompt pairs to activations."""

import argparse
from pathlib import Path

import gemma_mlx
from gemma_mlx import RequestError
from harness import options
from harness.data import npz_layout
from harness.experiment import Experiment
from harness.results.provenance import origin

OUTPUT = Path("collected_activations_output")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
            *options.TO_COLLECT,
            options.LAYERS,
            options.BASE_MODEL,
            options.STORE_FOLDER,
            options.RECOLLECT,
        ],
    )
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


def _collect(parsed: argparse.Namespace) -> int:
    ranks = gemma_mlx.find_ranks()
    experiment = Experiment.from_options(
        options.CommandLine(parsed), least_pairs=1, batch_size=parsed.batch_size
    )
    npz = parsed.layout == "npz"
    if npz and experiment.positions == "prompt_last":
        raise RequestError(
            "--layout npz holds tokens that were read after the prompt; it has the "
            "prompts' last tokens beside them, with any other --positions"
        )
    pairs = experiment.prompt_pairs
    for positions in (experiment.positions, *experiment.companions):
        run = experiment.collect(positions, ranks=ranks)
        if ranks.first:
            found = origin(run)["origin"]
            print(f"{positions}: {2 * len(pairs)} prompts in {run.path}, {found}")
        if npz and positions == experiment.positions:
            prefill = experiment.collect("prompt_last", ranks=ranks)
            if ranks.first:
                npz_layout.write_npz(
                    run,
                    pairs,
                    parsed.output,
                    layers=experiment.collection.layers,
                    sites=experiment.collection.sites,
                    prefill=prefill,
                    compress=not parsed.no_compress_activations,
                )
                print(f"npz files: {parsed.output}/")
    # Unasked a base model is collected by the checks alone.
    if experiment.base_model is not None:
        beside = ("forced",) if experiment.words_differ else ()
        for each in (experiment.positions, *beside):
            base = experiment.collect_base(each, ranks=ranks)
            if base is not None and ranks.first:
                found = origin(base)["origin"]
                print(f"{each}, base model: {2 * len(pairs)} prompts in {base.path}, {found}")
    return 0
