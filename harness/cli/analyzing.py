"""`analyze`, `report` and `power`: from activations to numbers and pages."""

import argparse
import sys
from functools import partial
from pathlib import Path

from harness import analysis, options
from harness.data.activations import AnalysisError
from harness.data.npz_layout import KEY_TEMPLATE, SUBCATEGORY
from harness.data.npz_run import NpzRun, read_npz
from harness.data.pairs import load_pairs
from harness.experiment import Experiment
from harness.progress import ON_TERMINAL
from harness.report import sentences, tables
from harness.results import Results
from harness.results.file import FILE_NAME, ResultsError
from harness.results.provenance import provenance_of_files
from harness.results.value import kept_sentence
from harness.settings import REPORT, Criteria
from harness.stats import MIN_PAIRS, smallest_detectable_effect

# What is collected, where nothing is read from files.
_OF_MODELS = (
    *(o for o in options.TO_COLLECT if o is not options.PAIRS),
    options.BASE_MODEL,
    options.OPENINGS,
    options.STORE_FOLDER,
)


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
            *_OF_MODELS, options.PAIRS, options.LAYERS, options.ALPHA, options.D_THRESHOLD,
            options.REPLICATES, options.STATS_SEED, options.SHOWN_COLUMNS, options.SORT,
            options.REPORT_FOLDER,
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
        default=REPORT / FILE_NAME,
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
    power.add_argument("--alpha", type=float, default=Criteria.alpha, help="default: %(default)s")
    power.set_defaults(run=_power)


def _analyze(parsed: argparse.Namespace) -> int:
    given = options.CommandLine(parsed)
    table, criteria = options.table_settings(given), options.criteria(given)
    folder = options.report_folder(given)
    if parsed.activations is not None:
        unused = given.flags(_OF_MODELS)
        if unused:
            raise AnalysisError(f"{', '.join(unused)}: not with --activations, which has no model")
        results = Results(_analyze_files(parsed, given), criteria)
    else:
        if (parsed.key_template, parsed.subcategory, parsed.steps) != (
            KEY_TEMPLATE, SUBCATEGORY, None,
        ):  # fmt: skip
            raise AnalysisError("--key-template, --subcategory and --steps are for --activations")
        experiment = Experiment.from_options(given, least_pairs=MIN_PAIRS)
        results = experiment.run(criteria)
    for line, _ in tables.terminal_table(results, table):
        print(line)
    print(f"\n{sentences.headline(results)}")
    close = sentences.close_sentence(results)
    if close:
        print(close)
    print(_in_sample(results))
    over_time = results.over_time(progress=partial(ON_TERMINAL, desc="over time", unit="version"))
    earlier = results.write(folder, over_time=over_time)
    print(f"report, plot and results: {folder}/")
    if earlier is not None:
        print(kept_sentence(earlier))
    return 0


def _analyze_files(parsed: argparse.Namespace, given: options.CommandLine) -> analysis.Analysis:
    pairs = load_pairs(options.PAIRS.read(given))
    if parsed.steps is not None and parsed.steps < 1:
        raise AnalysisError(f"--steps must be 1 or more, not {parsed.steps}")
    read = read_npz(
        parsed.activations,
        pairs,
        key_template=parsed.key_template,
        subcategory=parsed.subcategory,
        steps=parsed.steps,
        layers=options.LAYERS.read(given),
    )
    _say_missing(read)
    settings = options.analysis_settings(given)
    return analysis.analyze(
        read,
        pairs,
        layers=read.layers,
        sites=(read.site,),
        settings=settings,
        embeddings=read.embeddings,
        provenance=provenance_of_files(read, pairs, settings),
        progress=partial(ON_TERMINAL, desc="resampling", unit="layer"),
    )


def _say_missing(read: NpzRun) -> None:
    for what, steps in (("are missing", read.missing), ("after a gap are left out", read.ignored)):
        if steps:
            group, first = next(iter(steps.items()))
            print(
                f"warning: {sum(map(len, steps.values()))} steps of {len(steps)} prompts {what}, "
                f"for example {group}: {', '.join(map(str, first[:5]))}",
                file=sys.stderr,
            )


def _in_sample(results: Results) -> str:
    found = [result.in_sample for result in results.values()]
    return (
        "In-sample, all tokens pooled: d up to "
        f"{max(f.d for f in found):.2f}, accuracy up to {max(f.accuracy for f in found):.2f}, "
        f"seed_ratio up to {max(f.seed_ratio for f in found):.2f}."
    )


def _report(parsed: argparse.Namespace) -> int:
    folder = parsed.output or parsed.results.parent
    results = Results.read(parsed.results)
    try:
        results.draw(folder)
    except ResultsError as error:
        raise ResultsError(f"{parsed.results}: {error}") from error
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
    family = "one layer" if parsed.layers == 1 else f"{parsed.layers:g} layers"
    print(f"pairs  smallest d found in {parsed.power:.0%} of runs, {family} looked at")
    print("\n".join(rows))
    return 0
