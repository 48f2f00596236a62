"""`analyze`, `report` and `power`: from activations to numbers and pages."""

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from gemma_mlx.system.files import write_whole
from harness import experiment as run
from harness import options
from harness.analysis.layers import Analysis
from harness.analysis.layers import analyze as analyze_collected
from harness.data.activations import MOST_LAYERS, AnalysisError
from harness.data.npz_layout import KEY_TEMPLATE, SUBCATEGORY
from harness.data.npz_run import NpzRun, read_npz
from harness.data.pairs import load_pairs
from harness.report import page as report
from harness.report import tables
from harness.report.outputs import REPORT_NAME, write_outputs, write_plot
from harness.results.file import FILE_NAME, ResultsError, read_results
from harness.results.provenance import provenance_of_files
from harness.stats import smallest_detectable_effect
from harness.testing.plan import analysis_settings, criteria, make_plan

# What to collect, where nothing is read from files.
_OF_MODELS = (
    "model", "revision", "site", "positions", "max_tokens", "no_chat", "tensor_parallel",
    "base_model", "store",
)  # fmt: skip


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""
    analyze = commands.add_parser(
        "analyze",
        help="activations to results, plot and report",
        description=(
            "Estimate the separation of artifact and natural prompts in every layer, on held-out "
            "pairs and, beside that, the usual in-sample way. Takes the activations of --model "
            "from the store and collects what isn't there, or reads a directory of npz files, "
            "whoever made it."
        ),
    )
    options.add_arguments(
        analyze,
        [
            *_OF_MODELS, "pairs", "layers", "alpha", "d_threshold", "replicates", "stats_seed",
            "columns", "sort", "report",
        ],
    )  # fmt: skip
    files = analyze.add_argument_group("npz files")
    files.add_argument(
        "--activations",
        type=Path,
        metavar="DIR",
        help="read <DIR>/<group>/<subcategory>/batch_1/activations_step_<N>.npz",
    )
    files.add_argument(
        "--key-template",
        default=KEY_TEMPLATE,
        metavar="TEMPLATE",
        help="name of a layer's array (default: %(default)s)",
    )
    files.add_argument(
        "--subcategory", default=SUBCATEGORY, metavar="NAME", help="default: %(default)s"
    )
    files.add_argument(
        "--steps", type=int, metavar="N", help="steps to read at most (default: all there are)"
    )
    analyze.set_defaults(run=_analyze)

    again = commands.add_parser(
        "report",
        help="results file to plot and report",
        description="Draw plot and report.html again from a results file.",
    )
    again.add_argument(
        "results",
        type=Path,
        nargs="?",
        default=Path("artifact_report") / FILE_NAME,
        help="default: %(default)s",
    )
    again.add_argument(
        "--output", type=Path, metavar="DIR", help="where to (default: beside the results)"
    )
    again.set_defaults(run=_report)

    power = commands.add_parser(
        "power",
        help="smallest d that so many pairs can show",
        description=(
            "The smallest true held-out d that is told from 0 with the given probability, for each "
            "number of pairs."
        ),
    )
    power.add_argument("pairs", type=int, nargs="+", metavar="PAIRS", help="numbers of pairs")
    power.add_argument(
        "--layers", type=float, default=1, help="layers and sites that are looked at (default: 1)"
    )
    power.add_argument("--power", type=float, default=0.8, help="default: %(default)s")
    power.add_argument("--alpha", type=float, default=0.05, help="default: %(default)s")
    power.set_defaults(run=_power)


def _analyze(parsed: argparse.Namespace) -> int:
    config = options.CommandLine(parsed)
    shown = options.columns(config)
    wanted = criteria(config)
    _refuse_what_does_not_apply(parsed)
    bar = partial(tqdm, desc="resampling", unit="layer", disable=None, leave=False)
    if parsed.activations is None:
        plan = make_plan(config)
        asked = plan.collection
        analysis = run.analyze(
            plan.model,
            plan.pairs,
            revision=plan.revision,
            layers=plan.layers,
            sites=asked.sites,
            positions=asked.positions,
            companions=plan.companions,
            max_tokens=asked.max_tokens,
            chat=asked.chat,
            tensor_parallel=asked.tensor_parallel,
            base_model=plan.base_model,
            settings=plan.analysis,
            store=plan.store,
            progress=bar,
        )
    else:
        pairs = load_pairs(options.read(config, "pairs"))
        text = options.read(config, "layers")
        if parsed.steps is not None and parsed.steps < 1:
            raise AnalysisError(f"--steps must be 1 or more, not {parsed.steps}")
        read = read_npz(
            parsed.activations,
            pairs,
            key_template=parsed.key_template,
            subcategory=parsed.subcategory,
            steps=parsed.steps,
            layers=None if text is None else options.parse_layers(text, MOST_LAYERS),
        )
        _say_missing(read)
        settings = analysis_settings(config)
        analysis = analyze_collected(
            read,
            pairs,
            layers=read.layers,
            sites=(read.site,),
            settings=settings,
            provenance=provenance_of_files(read, pairs, settings),
            progress=bar,
        )
    header, *rows = tables.terminal_table(analysis, wanted, columns=shown[0], sort=shown[1])
    for line, _ in (header, *rows):
        print(line)
    print(f"\n{report.headline(analysis, wanted)}")
    close = report.close_sentence(analysis, wanted)
    if close:
        print(close)
    print(_in_sample(analysis))
    folder = Path(options.read(config, "report"))
    write_outputs(folder, analysis, wanted)
    page = report.page_html(analysis, wanted)
    write_whole(folder / REPORT_NAME, page.encode())
    print(f"report, plot and results: {folder}/")
    return 0


def _refuse_what_does_not_apply(parsed: argparse.Namespace) -> None:
    if parsed.activations is not None:
        unused = options.given(parsed, _OF_MODELS)
        if unused:
            raise AnalysisError(f"{', '.join(unused)}: not with --activations, which has no model")
    elif (parsed.key_template, parsed.subcategory, parsed.steps) != (
        KEY_TEMPLATE, SUBCATEGORY, None,
    ):  # fmt: skip
        raise AnalysisError("--key-template, --subcategory and --steps are for --activations")


def _say_missing(read: NpzRun) -> None:
    for what, steps in (("are missing", read.missing), ("after a gap are left out", read.ignored)):
        if steps:
            group, first = next(iter(steps.items()))
            print(
                f"warning: {sum(map(len, steps.values()))} steps of {len(steps)} prompts {what}, "
                f"for example {group}: {', '.join(map(str, first[:5]))}",
                file=sys.stderr,
            )


def _in_sample(analysis: Analysis) -> str:
    found = [result.in_sample for result in analysis.values()]
    ratios = [f.seed_ratio for f in found]
    return (
        "In-sample, all tokens pooled: d up to "
        f"{max(f.d for f in found):.2f}, accuracy up to {max(f.accuracy for f in found):.2f}, "
        f"seed_ratio up to {max(ratios):.2f}."
    )


def _report(parsed: argparse.Namespace) -> int:
    found = read_results(parsed.results)
    folder = parsed.output or parsed.results.parent
    try:
        write_plot(folder, found.analysis, found.criteria)
        page = report.page_html(found.analysis, found.criteria, found.comparison, found.causal)
    except (ValueError, OverflowError) as error:
        # Of its schema, and still of figures that no run gives.
        raise ResultsError(f"{parsed.results}: can't be drawn ({error})") from error
    write_whole(folder / REPORT_NAME, page.encode())
    print(f"report and plot: {folder}/")
    return 0


def _power(parsed: argparse.Namespace) -> int:
    rows = []
    for pairs in parsed.pairs:
        try:
            smallest = smallest_detectable_effect(
                pairs, layers=parsed.layers, power=parsed.power, alpha=parsed.alpha
            )
        except ValueError as error:
            raise AnalysisError(str(error)) from error
        rows.append(f"{pairs:5d}  {smallest:.2f}")
    print(f"pairs  smallest d found in {parsed.power:.0%} of runs")
    print("\n".join(rows))
    return 0
