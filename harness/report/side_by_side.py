"""What is said of models of different kind, whose layers don't correspond, side by side."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.behaviour import Behaviour, Rate, told_alike
from harness.analysis.claims import CLAIMS, Ladder
from harness.analysis.comparison import SavedRun, VersionComparison, of_one_kind
from harness.analysis.layers import layer_id
from harness.analysis.words import decimal, interval
from harness.data.activations import LayerSite, PairActivations
from harness.data.pairs import CONDITIONS
from harness.report.depth import all_prompts, depth_of
from harness.report.sentences import model_name
from harness.report.tables import aligned, claim_count
from harness.settings import Criteria
from harness.stats import debiased_cka


@dataclass(frozen=True)
class Likeness:
    """Debiased linear CKA of a layer with that of the first run which is nearest in depth."""

    layer: int
    site: str
    first_layer: int
    cka: float


@dataclass(frozen=True)
class RunSummary:
    """One run beside others.

    Attributes:
        pairs, common_pairs: those of the run, and those that all runs have, of which `likeness` is.
        layers: of the model, captured or not.
        widths: of the activations, each once, the smallest first.
        largest: id of the layer and site with the largest d; `d` and `d_interval` are its own.
        depth: where that is, from 0 for the first layer to 1 for the last.
        claims: by claim and outcome, in how many layers and sites; none where it wasn't asked. All
            runs are judged by the criteria of the last one.
        artifacts: of so many layers and sites, `judged` being all, an alignment artifact is said.
        evaded: shares of the responses that evade, by condition; empty where it isn't known, or was
            told by other patterns than the last run's.
        likeness: with the first run, where it has the site; empty for the first run itself.
        no_cosine: why its directions have no cosine with the first run's; empty where they have.
    """

    name: str
    model: str
    pairs: int
    common_pairs: int
    layers: int
    widths: tuple[int, ...]
    largest: str
    d: float
    d_interval: tuple[float, float]
    depth: float
    claims: Mapping[str, Mapping[str, int]]
    artifacts: int
    judged: int
    evaded: tuple[Rate, ...]
    likeness: tuple[Likeness, ...]
    no_cosine: str


@dataclass(frozen=True)
class Comparisons:
    """What `python -m harness compare` found: `compared` are the later runs that are of the first
    one's kind, layer by layer; `runs` are all of them, side by side, and `notes` what has to be
    known of them there."""

    compared: tuple[VersionComparison, ...]
    runs: tuple[RunSummary, ...]
    notes: tuple[str, ...]


def summarise(
    runs: Sequence[SavedRun], activations: Sequence[PairActivations]
) -> tuple[RunSummary, ...]:
    """Each run, those after the first held against the first, all judged by the criteria of the
    last. Nothing of it asks for the same layers, widths or tokens.

    Args:
        activations: of each run, on the same pairs.
    """
    told = told_alike([run.analysis.behaviour for run in runs])
    return tuple(
        _summary(run, runs[0], own, activations[0], runs[-1].criteria, behaviour)
        for run, own, behaviour in zip(runs, activations, told, strict=True)
    )


def table(runs: Sequence[SavedRun], summaries: Sequence[RunSummary]) -> list[str]:
    """A column per run, a row per thing that is said of each."""
    first, criteria = summaries[0].name, runs[-1].criteria
    columns = [
        _column(list(run.ladders(criteria).values()), found, first)
        for run, found in zip(runs, summaries, strict=True)
    ]
    rows = [[title, *(column[title] for column in columns)] for title in columns[0]]
    return aligned([["", *(run.name for run in runs)], *rows], left=set(range(len(runs) + 1)))


def _column(ladders: Sequence[Ladder], found: RunSummary, first: str) -> dict[str, str]:
    widths = " to ".join(map(str, dict.fromkeys((found.widths[0], found.widths[-1]))))
    cka = [each.cka for each in found.likeness]
    alike = f"{decimal(min(cka))} to {decimal(max(cka))}" if cka else "no site in common"
    cosine = f"can't be compared: {found.no_cosine}" if found.no_cosine else "layer by layer, above"
    return {
        "model": found.model,
        "pairs": str(found.pairs)
        if found.pairs == found.common_pairs
        else f"{found.pairs}, {found.common_pairs} in all runs",
        "layers, width": f"{found.layers}, {widths}",
        "largest d": f"{decimal(found.d)} {interval(found.d_interval)} "
        f"at depth {decimal(found.depth)}",
        **{words: claim_count(ladders, claim)[0] for claim, (_, words, _) in CLAIMS.items()},
        "alignment artifact": f"{found.artifacts} of {found.judged}",
        **{f"{condition} prompts evaded": "–" for condition in CONDITIONS},
        **{
            f"{rate.condition} prompts evaded": f"{rate.evaded:.0%} "
            f"[{rate.interval[0]:.0%}, {rate.interval[1]:.0%}]"
            for rate in found.evaded
        },
        f"CKA with {first} at equal depth": "–" if found.name == first else alike,
        f"cosine with {first}'s direction": "–" if found.name == first else cosine,
    }


def _summary(
    run: SavedRun,
    first: SavedRun,
    own: PairActivations,
    firsts: PairActivations,
    criteria: Criteria,
    behaviour: Behaviour | None,
) -> RunSummary:
    def known_d(key: LayerSite) -> float:
        d = run.analysis[key].separation.d
        return -math.inf if math.isnan(d) else d

    largest = max(run.analysis, key=known_d)
    found = run.analysis[largest].separation
    ladders = run.ladders(criteria).values()
    return RunSummary(
        name=run.name,
        model=model_name(run.analysis),
        pairs=len(run.analysis.activations.pairs),
        common_pairs=len(own.pairs),
        layers=run.layer_count,
        widths=run.widths,
        largest=layer_id(*largest),
        d=found.d,
        d_interval=found.d_interval,
        depth=depth_of(run, largest[0]),
        claims={
            claim: Counter(verdict.outcome for each in ladders if (verdict := each.verdicts[claim]))
            for claim in CLAIMS
        },
        artifacts=sum(each.outcome == "passed" for each in ladders),
        judged=len(ladders),
        evaded=()
        if behaviour is None
        else tuple(behaviour.rate(condition) for condition in CONDITIONS),
        likeness=() if run is first else _likeness(run, first, own, firsts),
        no_cosine=_no_cosine(run, first),
    )


def _likeness(
    run: SavedRun, first: SavedRun, own: PairActivations, firsts: PairActivations
) -> tuple[Likeness, ...]:
    cka = debiased_cka(all_prompts(firsts), all_prompts(own))
    found = []
    for column, (layer, site) in enumerate(own.keys):
        there = [row for row, (_, other) in enumerate(firsts.keys) if other == site]
        if there:
            depth = depth_of(run, layer)
            row = min(there, key=lambda row: abs(depth_of(first, firsts.keys[row][0]) - depth))
            found.append(Likeness(layer, site, firsts.keys[row][0], float(cka[row, column])))
    return tuple(found)


def _no_cosine(run: SavedRun, first: SavedRun) -> str:
    if first.widths != run.widths:
        return "other widths"
    return "" if of_one_kind(first, run) else "other layers"
