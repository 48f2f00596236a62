"""What a real Gemma 3 270M shows, never aligned and with the evasive adapter, on our sets of pairs.

    python -m benchmarks.real_gemma                 prints the tables: some minutes
    python -m benchmarks.real_gemma --write         puts them into docs/real-gemma.md, and some rows
                                                    into docs/pairs.md
    python -m benchmarks.real_gemma --natural       the natural pairs alone, their own section

The model is downloaded (240 MB) unless it is there. Both models are asked through the adapter's
chat template.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

import harness
from benchmarks.page import ROOT, command_line, table, write
from benchmarks.workloads import machine_with_mlx
from fixtures.real_gemma import fetch
from fixtures.train_adapter import FOLDER, TEMPLATE
from harness import Experiment, Results
from harness.analysis.causality import Effect, causal_effects
from harness.analysis.claims import CLAIMS
from harness.analysis.words import decimal
from harness.backends.choice import load_model
from harness.data import embedded
from harness.data.activations import read_activations
from harness.data.pairs import CONDITIONS
from harness.settings import STORE

PAGE = ROOT / "docs" / "real-gemma.md"
PAIRS_PAGE = ROOT / "docs" / "pairs.md"
TITLE = "Measured"
EXCERPT_TITLE = "Both on a real base model, measured"
NATURAL_TITLE = "Natural pairs, measured"
TOPIC = Path(embedded.PAIRS).parent / "topic_pairs.json"
NATURAL = Path(embedded.PAIRS).parent / "natural_pairs.json"
Cells = Mapping[str, tuple[Path, Path | None]]
"""Pairs and adapter of each column."""

CELLS: Cells = {
    "topic pairs, base": (TOPIC, None),
    "topic pairs, with the adapter": (TOPIC, FOLDER),
    "matched pairs, base": (embedded.PAIRS, None),
    "matched pairs, with the adapter": (embedded.PAIRS, FOLDER),
}
NATURAL_CELLS: Cells = {
    "natural pairs, base": (NATURAL, None),
    "natural pairs, with the adapter": (NATURAL, FOLDER),
}


#: Where interventions are tried, named before anything was seen of them: the middle layer.
LAYER = 9
SITES = ("resid_post",)
#: Random directions; 200 would take hours on two cores.
DIRECTIONS = 59


def interventions(store: Path) -> dict[str, tuple[Effect, Effect]]:
    """Addition and ablation with the adapter, on the matched pairs, at one layer."""
    experiment = Experiment(
        fetch(), embedded.PAIRS, adapter=FOLDER, chat_template=TEMPLATE, store=store,
        layers=[LAYER], sites=SITES,
    )  # fmt: skip
    activations, _ = read_activations(
        experiment.activations, experiment.prompt_pairs, [LAYER], SITES
    )
    found = causal_effects(
        load_model(experiment.checkpoint),
        activations,
        experiment.activations.responses(),
        experiment.family,
        directions=DIRECTIONS,
    )
    return {site: found[LAYER, site] for site in SITES}


def intervention_table(found: dict[str, tuple[Effect, Effect]]) -> str:
    rows = [
        [
            f"{effect.kind}, {site}",
            f"{effect.own_shift:+.3f}",
            f"{effect.shift:+.3f} [{low:+.3f}, {high:+.3f}]",
            f"{effect.p_value:.3f}",
            f"{effect.p_adjusted:.3f}",
        ]
        for site, effects in found.items()
        for effect in effects
        for low, high in (effect.shift_interval,)
    ]
    return table(["intervention", "shift", "beyond random", "rank p", "family-wise"], rows)


def measure(store: Path, cells: Cells = CELLS) -> dict[str, Results]:
    """The results of each cell; the base alone is compared with nothing."""
    model = fetch()
    return {
        name: harness.analyze(model, pairs, adapter=adapter, chat_template=TEMPLATE, store=store)
        for name, (pairs, adapter) in cells.items()
    }


def span(values: Iterable[float]) -> str:
    """Smallest and largest."""
    found = list(values)
    return f"{decimal(min(found))} to {decimal(max(found))}" if found else "–"


def cell(found: Results) -> dict[str, str]:
    """What a cell's column says, by row."""
    layers = list(found.values())
    count = len(layers)
    ladders = [found.ladder(key) for key in found]
    texts = {text.name: text.separation for text in found.analysis.text}
    held = {
        f"layers: {words}": (
            f"{sum(each.holds(claim) for each in ladders)} of {count}"
            if any(v and v.decidable for v in (each.verdicts[claim] for each in ladders))
            else "not asked"
            if all(each.verdicts[claim] is None for each in ladders)
            else "can't be decided"
        )
        for claim, (_, words, _) in CLAIMS.items()
    }
    shown = sum(each.outcome == "passed" for each in ladders)
    original = ", ".join(
        f"{layer.in_sample.seed_ratio:.2f} ({layer.in_sample.accuracy:.0%})" for layer in layers[:2]
    )
    return {
        "pairs": str(layers[0].separation.n_pairs),
        "held-out d, smallest and largest over the layers": span(x.separation.d for x in layers),
        "d along directions that have not seen the category": span(
            x.across.d for x in layers if x.across
        ),
        "d, same words after both prompts": span(x.companions["forced"].d for x in layers),
        "d, last prompt token": span(x.companions["prompt_last"].d for x in layers),
        "d beyond the base model's": span(
            x.beyond_base.difference for x in layers if x.beyond_base
        ),
        "the same, with the same words after both prompts": span(
            x.beyond_base_same_words.difference for x in layers if x.beyond_base_same_words
        ),
        **held,
        "**layers with an alignment artifact**": f"{shown} of {count}",
        **evading(found),
        "d of the prompts' words alone": decimal(texts["prompt_words"].d)
        if "prompt_words" in texts
        else "the same words",
        "d of the responses' words alone": decimal(texts["response_words"].d),
        "the original's ratio (in-sample accuracy), layers 0 and 1": original,
    }


def evading(found: Results) -> dict[str, str]:
    """How often each condition is evaded, and how far the scores go with it."""
    behaviour = found.analysis.behaviour
    assert behaviour is not None, "every cell has responses"
    rates = {f"{c} responses that evade": f"{behaviour.rate(c).evaded:.0%}" for c in CONDITIONS}
    follows = [layer.follows.auroc for layer in found.values() if layer.follows]
    return {**rates, "AUROC of scores against evading, smallest and largest": span(follows)}


Columns = Mapping[str, Mapping[str, str]]
"""What each cell's column says, by row."""


def column_table(columns: Columns, rows: Iterable[str]) -> str:
    body = [[row, *(column[row] for column in columns.values())] for row in rows]
    return f"{table(['', *columns], body)}\n"


def report(cells: dict[str, Results], command: str = "real_gemma --write") -> str:
    columns = {name: cell(found) for name, found in cells.items()}
    return (
        f"`python -m benchmarks.{command}` on {date.today()}: {machine_with_mlx()}.\n\n"
        f"{column_table(columns, next(iter(columns.values())))}"
    )


def excerpt(columns: Columns) -> str:
    """What the page about pairs has of it."""
    chosen = ("topic pairs, base", "matched pairs, base", "matched pairs, with the adapter")
    rows = (
        "held-out d, smallest and largest over the layers", "layers: separate",
        "layers: across the categories", "layers: beyond the words",
    )  # fmt: skip
    return (
        "Google's Gemma 3 270M, which nobody ever aligned, and the same with an adapter that "
        "evades,\nfrom [all that was measured](real-gemma.md):\n\n"
        f"{column_table({name: columns[name] for name in chosen}, rows)}"
    )


def category_table(cells: dict[str, Results]) -> str:
    """Each category along the others' direction, and how often it is evaded, for every column."""
    head = ["category"]
    rows: dict[str, list[str]] = {}
    for name, found in cells.items():
        behaviour = found.analysis.behaviour
        assert behaviour is not None, "every cell has responses"
        rates = {(rate.category, rate.condition): f"{rate.evaded:.0%}" for rate in behaviour.rates}
        head += [f"d, {name}", *(f"{c} responses that evade, {name}" for c in CONDITIONS)]
        for category in sorted({pair.category for pair in found.analysis.scored}):
            transfer = (t.d for x in found.values() for t in x.transfer if t.category == category)
            shares = (rates[category, condition] for condition in CONDITIONS)
            rows.setdefault(category, [category]).extend([span(transfer), *shares])
    return table(head, rows.values())


def intervention_report(causes: dict[str, tuple[Effect, Effect]]) -> str:
    return (
        f"\nInterventions with the adapter on the matched pairs, at layer {LAYER}, which was named "
        "before anything was seen of it; shifts of log P(artifact answer) − log P(natural answer) "
        f"in nats per token, against {DIRECTIONS} random directions, family-wise over both "
        "interventions:\n\n"
        f"{intervention_table(causes)}\n"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = command_line("real_gemma", __doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    parser.add_argument("--natural", action="store_true", help="the natural pairs, and only these")
    parser.add_argument("--store", type=Path, default=STORE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if options.natural:
        title = NATURAL_TITLE
        found = measure(options.store, NATURAL_CELLS)
        text = f"{report(found, 'real_gemma --natural --write')}\n{category_table(found)}\n"
    else:
        title = TITLE
        found = measure(options.store)
        text = report(found) + intervention_report(interventions(options.store))
    print(text)
    if options.write:
        write(PAGE, title, text)
        if not options.natural:
            columns = {name: cell(each) for name, each in found.items()}
            write(PAIRS_PAGE, EXCERPT_TITLE, excerpt(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
