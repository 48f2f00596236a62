"""A project's saved runs over time: what each changed against the one before."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.analysis.comparison import (
    BaselineError,
    SavedRun,
    VersionComparison,
    compare_versions,
    notes,
)
from harness.analysis.layers import LayerResult
from harness.data.activations import AnalysisError, LayerSite, PairActivations
from harness.settings import Criteria

Mark = Literal["changed", "turned", "inconclusive"]


@dataclass(frozen=True)
class Version:
    """A saved run, and what changed in it.

    Attributes:
        change: against the run before; None in the first, and where they can't be compared.
        reason: why they can't be; empty if they can.
    """

    run: SavedRun
    change: VersionComparison | None = None
    reason: str = ""

    def result(self, key: LayerSite) -> LayerResult | None:
        return self.run.analysis.results.get(key)

    def marks(self, key: LayerSite) -> tuple[Mark, ...]:
        """What is shown to have changed in a layer, d beyond the margin or the direction, or that d
        is shown neither to have changed nor to have stayed."""
        layer = None if self.change is None else self.change.layers.get(key)
        if layer is None:
            return ()
        turned = layer.separated and layer.drift is not None and layer.drift.verdict == "turned"
        changed = layer.comparison.verdict == "changed"
        inconclusive = layer.comparison.verdict == "inconclusive"
        found: Mapping[Mark, bool] = {
            "changed": changed,
            "turned": turned,
            "inconclusive": inconclusive,
        }
        return tuple(mark for mark, shown in found.items() if shown)

    def changed(self, key: LayerSite) -> bool:
        """Whether a change is shown in a layer."""
        return bool({"changed", "turned"} & set(self.marks(key)))


@dataclass(frozen=True)
class OverTime:
    """Versions in their order, and what isn't among them.

    Attributes:
        criteria: what all of them are judged by, the latest's.
        left_out: for each saved run that can't be read, why.
        earlier: how many older ones there are.
    """

    versions: Sequence[Version]
    criteria: Criteria
    left_out: Sequence[str] = ()
    earlier: int = 0

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """Versions that can't be compared with the one before, and why."""
        return [(version.run.name, version.reason) for version in self.versions if version.reason]

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known of them beside each other."""
        return notes([version.run for version in self.versions], self.criteria)


def versions_of(runs: Iterable[SavedRun], criteria: Criteria) -> list[Version]:
    """Each run, in the order given, held against the one before; all are judged by these criteria.

    Those that are returned have no activations: of two runs at a time they are in memory.
    """
    found: list[Version] = []
    before: SavedRun | None = None
    for run in runs:
        change, reason = None, ""
        if before is not None:
            try:
                change = compare_versions(before, run, criteria)
            except (BaselineError, AnalysisError) as error:
                reason = str(error)
        bare = replace(run.analysis, activations=PairActivations((), (), (), (), ()))
        found.append(Version(replace(run, analysis=bare), change, reason))
        before = run
    return found


def layers_of(versions: Sequence[Version]) -> list[LayerSite]:
    """Every layer and site of any version, site by site."""
    every = {key for version in versions for key in version.run.analysis}
    return sorted(every, key=lambda key: (key[1], key[0]))
