"""The figures of one layer at one site, and all of a run's together."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.analysis.behaviour import Behaviour, Openings, PairResponses
from harness.analysis.controls import TextBaseline
from harness.analysis.tokens import TokenScores
from harness.analysis.words import decimal
from harness.data.activations import Dropped, LayerSite, PairActivations
from harness.data.clusters import Link
from harness.data.pairs import Pair
from harness.settings import AnalysisSettings
from harness.stats import (
    CategoryTransfer,
    Comparison,
    Following,
    InSampleSeparation,
    PairQuality,
    Separation,
    StepSeparation,
)

# Layers that a message names before it says "…".
_MOST_NAMED = 8


@dataclass(frozen=True)
class LayerResult:
    """One layer at one site.

    Attributes:
        separation: the held-out figures that the criteria are about.
        in_sample: the original project's figures, scored on the very vectors that the direction
            was learnt from; for comparison.
        companions: the same estimate at other positions, by their name ("forced": the same
            words after both prompts; "prompt_last": nothing written yet).
        alike: the same estimate where pairs that read alike count as one unit, too; None where no
            more pairs do, or too few units are left.
        across: the same estimate along directions that have not seen a pair's category; None where
            there are too few categories.
        transfer: each category along the direction of the others.
        steps: the separation token by token.
        quality: how well the pairs agree on a direction, and whether single dimensions rule it.
        beyond_base: change of d from the base model's; None where none was given.
        beyond_base_same_words: the same where both models read the same words, those that this one
            answered to the natural prompt; None where there is no base model, or where the words
            are the same anyway.
        noise: change of d to a second run of the same model in other batches; None where there was
            none.
        follows: the held-out scores of artifact prompts, where nothing is written yet, against
            whether the responses evade; None where that wasn't asked or can't be decided.
        beyond_embeddings: change of d from that of the written tokens' own input embeddings; None
            where these weren't given.
        written: whether the model wrote what was read, so that the responses can be looked at: not
            at positions "forced" or "prompt_last".
    """

    layer: int
    site: str
    separation: Separation
    in_sample: InSampleSeparation
    companions: Mapping[str, Separation] = field(default_factory=dict)
    alike: Separation | None = None
    across: Separation | None = None
    transfer: tuple[CategoryTransfer, ...] = ()
    steps: tuple[StepSeparation, ...] = ()
    quality: PairQuality | None = None
    beyond_base: Comparison | None = None
    beyond_base_same_words: Comparison | None = None
    beyond_embeddings: Comparison | None = None
    noise: Comparison | None = None
    follows: Following | None = None
    written: bool = True

    @property
    def id(self) -> str:
        """As the checks, reports and files call it; see `layer_id`."""
        return layer_id(self.layer, self.site)


@dataclass(frozen=True, repr=False)
class Analysis(Mapping[LayerSite, LayerResult]):
    """Results by (layer, site), and what they were computed from.

    Attributes:
        results: the mapping itself.
        activations: the token means that were compared; none where the analysis was read from a
            results file.
        scored: the pairs behind `separation.scores_*`, in that order.
        responses: what was written for every pair of the run, or read after its prompts.
        dropped: pairs that were left out, and why.
        merged: how many pairs were averaged into another one with the same two prompts, or had
            the same activations as another one.
        settings: how it was estimated.
        cut: pairs whose longer response counts only as far as the shorter one goes.
        dropped_beside: pairs that only the runs beside this one (other positions, the base model)
            lack; the reason names the run.
        links: pairs that count as one unit, and why.
        alike: pairs of different units that read alike: two of their prompts have half of their
            words in common, or more.
        alike_undecided: why the estimate with those as one unit can't be made; None where it was,
            or there are none.
        text: what words and lengths alone give.
        openings: how likely evasive openings are; None where that wasn't asked.
        behaviour: which responses evade; None where nothing was written, or nobody asked.
        provenance: model, pairs, settings, versions and machine.
        tokens: the scores token by token; None where they weren't kept with the results.
    """

    results: Mapping[LayerSite, LayerResult]
    activations: PairActivations
    scored: tuple[Pair, ...]
    responses: tuple[PairResponses, ...]
    dropped: tuple[Dropped, ...]
    merged: int
    settings: AnalysisSettings
    cut: tuple[Pair, ...] = ()
    dropped_beside: tuple[Dropped, ...] = ()
    links: tuple[Link, ...] = ()
    alike: tuple[Link, ...] = ()
    alike_undecided: str | None = None
    text: tuple[TextBaseline, ...] = ()
    behaviour: Behaviour | None = None
    openings: Openings | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tokens: TokenScores | None = field(default=None, compare=False)

    def __getitem__(self, key: LayerSite) -> LayerResult:
        if key not in self.results:
            known = ", ".join(map(str, list(self.results)[:_MOST_NAMED]))
            more = ", …" if len(self.results) > _MOST_NAMED else ""
            raise KeyError(f"{key!r}: ask for (layer, site), one of {known}{more}")
        return self.results[key]

    def __iter__(self) -> Iterator[LayerSite]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        found = [r.separation.d for r in self.values() if not math.isnan(r.separation.d)]
        span = f", d {decimal(min(found))} to {decimal(max(found))}" if found else ""
        many = "layer and site" if len(self) == 1 else "layers and sites"
        return f"Analysis({len(self)} {many}, {len(self.scored)} pairs{span})"


def layer_id(layer: int, site: str) -> str:
    """A layer and site in one word, e.g. `layer_6-mlp_out`."""
    return f"layer_{layer}-{site}"
