"""Two versions of a model on the same pairs: what changed, layer by layer."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemma_mlx.errors import UserError
from harness.analysis.behaviour import BehaviourChange, compare_behaviour, told_alike
from harness.analysis.causality import Effect
from harness.analysis.claims import Ladder, ladder
from harness.analysis.estimating import compare_runs
from harness.analysis.layers import Analysis, LayerResult, layer_id
from harness.data.activations import LayerSite, PairActivations
from harness.settings import AnalysisSettings, Criteria
from harness.stats import Comparison, DirectionDrift, direction_drift

# What has to be equal for two runs to be comparable, and how to say what it is.
_DECISIVE = {
    "pairs_fingerprint": "prompt pairs",
    "template_fingerprint": "chat template",
    "collection.positions": "positions",
    "collection.max_tokens": "number of tokens",
    "collection.sampling": "sampling settings",
    "collection.seed": "sampling seed",
    "collection.chat": "use of the chat template",
    "analysis.scale": "scaling of the statistics",
    "analysis.direction": "direction of the statistics",
}
_CIRCUMSTANCES = (
    "packages", "python", "device", "machine", "blas", "backend", "collection.dtype",
    "collection.tensor_parallel",
    # Of the bounds that a saved run's layers are judged by; they can't be had at another one.
    "analysis.level",
)  # fmt: skip


class BaselineError(UserError):
    """A baseline that isn't there, is damaged, or can't be compared; the message says which."""


@dataclass(frozen=True)
class SavedRun:
    """One run that others are compared with.

    Attributes:
        path: its file; the file's name is the run's.
        analysis: with its activations.
        criteria: what its layers had to meet when it was made. Beside others it is judged by one
            set for all: a layer that is asked for more in one run seems to have changed.
        interventions: addition and ablation, where they were measured.
    """

    path: Path
    analysis: Analysis
    criteria: Criteria
    interventions: Mapping[LayerSite, tuple[Effect, Effect]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.stem

    def ladders(self, criteria: Criteria) -> dict[LayerSite, Ladder]:
        """The claims at each layer and site, by these criteria."""
        return {
            key: ladder(result, criteria, self.interventions.get(key, ()), self.analysis)
            for key, result in self.analysis.items()
        }

    def separates(self, criteria: Criteria) -> frozenset[LayerSite]:
        """The layers and sites that separate by these criteria."""
        return frozenset(k for k, each in self.ladders(criteria).items() if each.holds("separates"))

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the activations, each once, the smallest first."""
        return tuple(sorted({array.shape[1] for array in self.analysis.activations.artifact}))

    @property
    def layer_count(self) -> int:
        """Layers of the model, captured or not."""
        return int(self.analysis.provenance["model_layers"])


@dataclass(frozen=True)
class LayerComparison:
    """One layer at one site in two versions, `comparison` being d of B minus d of A.

    `drift` is the cosine between the versions' directions; None where their widths differ.
    `separated` is whether A separates there, by the criteria that both versions are judged by, so
    that it has a direction to keep. `noise` is by how
    much d differs between two runs of the same version, the larger one of A's and B's; None where
    neither was run twice.
    """

    layer: int
    site: str
    comparison: Comparison
    drift: DirectionDrift | None
    separated: bool = True
    noise: float | None = None

    @property
    def id(self) -> str:
        return layer_id(self.layer, self.site)


@dataclass(frozen=True)
class VersionComparison:
    """Two versions, layer by layer.

    `categories` holds the change of each category's d, along the direction of the other
    categories, by category and layer id. `gained` and `lost` are the layers that separate in only
    one of the two, by one set of criteria, `absent` those of A that B doesn't have. `behaviour` is
    the change of each condition's share of responses that evade, empty where it isn't known, or
    was told by other patterns.
    `warnings` name circumstances that differ without making the runs incomparable, and `notes`.
    """

    a: str
    b: str
    layers: Mapping[LayerSite, LayerComparison]
    categories: Mapping[str, Mapping[str, float]]
    margin: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    absent: tuple[str, ...]
    behaviour: tuple[BehaviourChange, ...]
    warnings: tuple[str, ...]


def compare_versions(a: SavedRun, b: SavedRun, criteria: Criteria) -> VersionComparison:
    """Compare two saved runs of the same pairs, at the layers and sites of `b`; both are judged by
    these criteria, whatever they were saved with."""
    then, now = a.analysis, b.analysis
    keys = now.activations.keys
    check_comparable(a, now.provenance, keys)
    compared = compare_runs(then.activations, now.activations, now.settings, margin=criteria.margin)
    drifts = _drifts(then.activations, now.activations, now.settings, criteria.cosine)
    here = b.separates(criteria) & set(keys)
    before = a.separates(criteria) & set(keys)
    return VersionComparison(
        a=a.name,
        b=b.name,
        layers={
            key: LayerComparison(
                *key, comparison, drift, key in before, _noise(then[key], now[key])
            )
            for key, comparison, drift in zip(keys, compared, drifts, strict=True)
        },
        categories=_category_changes(a, b, keys),
        margin=criteria.margin,
        gained=tuple(sorted(layer_id(*key) for key in here - before)),
        lost=tuple(sorted(layer_id(*key) for key in before - here)),
        behaviour=compare_behaviour(
            then.behaviour,
            now.behaviour,
            dict(zip(now.activations.pairs, now.activations.clusters, strict=True)),
            level=now.settings.level,
        ),
        absent=tuple(layer_id(*key) for key in then if key not in keys),
        warnings=(
            *(
                f"{what}: {earlier} then, {later} now"
                for what in _CIRCUMSTANCES
                if (earlier := _value(then.provenance, what))
                != (later := _value(now.provenance, what))
            ),
            *notes((a, b), criteria),
        ),
    )


def notes(runs: Sequence[SavedRun], criteria: Criteria) -> tuple[str, ...]:
    """What has to be known of runs that stand beside each other, judged by these criteria: which
    were saved with others, and whose shares of evasion other patterns told than the last one's."""

    def thresholds(one: Criteria) -> str:
        return f"d above {one.d_threshold:g} and p below {one.alpha:g}"

    asked = thresholds(criteria)
    others = [
        f"{run.name} ({thresholds(run.criteria)})"
        for run in runs
        if thresholds(run.criteria) != asked
    ]
    told = [run.analysis.behaviour for run in runs]
    apart = [
        f"{run.name} ({behaviour.patterns})"
        for run, behaviour, alike in zip(runs, told, told_alike(told), strict=True)
        if behaviour is not None and alike is None
    ]
    found = []
    if others:
        found.append(f"all are judged by {asked}; saved with others: {_listed(others)}")
    if apart:
        last = [behaviour.patterns for behaviour in told if behaviour is not None][-1]
        found.append(
            f"shares of evaded prompts can't be compared, other patterns than {last}, told those "
            f"of {_listed(apart)}"
        )
    return tuple(found)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _noise(*runs: LayerResult) -> float | None:
    found = [abs(run.noise.difference) for run in runs if run.noise is not None]
    return max(found, default=None)


def check_comparable(
    a: SavedRun, provenance: Mapping[str, Any], keys: Collection[LayerSite]
) -> None:
    """Raise `BaselineError` naming all that makes a run with `keys` incomparable with `a`."""
    different = differences(a, provenance)
    if different:
        raise BaselineError(f"{a.path}: can't be compared, different {'; '.join(different)}")
    absent = [layer_id(*key) for key in keys if key not in a.analysis.activations.keys]
    if absent:
        raise BaselineError(f"{a.path}: has no {', '.join(absent)}")


def differences(a: SavedRun, provenance: Mapping[str, Any], *, template: bool = True) -> list[str]:
    """What differs, of all that has to be equal for a run to be compared with `a`: of models of
    different kind all but the chat template."""
    return [
        f"{what} ({_short(there)} there, {_short(here)} here)"
        for key, what in _DECISIVE.items()
        if (template or key != "template_fingerprint")
        and (there := _value(a.analysis.provenance, key)) != (here := _value(provenance, key))
    ]


def of_one_kind(a: SavedRun, b: SavedRun) -> bool:
    """Whether b can be a version of a: all its layers are there, and where they have other widths,
    at least all that had to be equal is."""
    same_layers = a.layer_count == b.layer_count and b.analysis.keys() <= a.analysis.keys()
    return same_layers and (a.widths == b.widths or not differences(a, b.analysis.provenance))


def _value(provenance: Mapping[str, Any], key: str) -> Any:
    """A value of the provenance; dots lead into nested objects."""
    value: Any = provenance
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _category_changes(
    a: SavedRun, b: SavedRun, keys: Iterable[LayerSite]
) -> dict[str, dict[str, float]]:
    changes: dict[str, dict[str, float]] = {}
    for key in keys:
        before = {transfer.category: transfer.d for transfer in a.analysis[key].transfer}
        for transfer in b.analysis[key].transfer:
            change = transfer.d - before.get(transfer.category, math.nan)
            if not math.isnan(change):
                changes.setdefault(str(transfer.category), {})[layer_id(*key)] = change
    return changes


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _drifts(
    a: PairActivations, b: PairActivations, settings: AnalysisSettings, cosine: float
) -> list[DirectionDrift | None]:
    one, other = a.matched(b)
    alike = [
        i for i, (x, y) in enumerate(zip(one.artifact, other.artifact, strict=True))
        if x.shape == y.shape
    ]  # fmt: skip
    drifts: list[DirectionDrift | None] = [None] * len(b.keys)
    if alike:
        # In one call: a layer alone may have too few pairs that differ at all.
        arms = (one.artifact, one.natural, other.artifact, other.natural)
        found = direction_drift(
            *([arm[i] for i in alike] for arm in arms),
            least=cosine,
            scale=settings.scale,
            level=settings.level,
            clusters=other.clusters,
        )
        for i, drift in zip(alike, found, strict=True):
            drifts[i] = drift
    return drifts
