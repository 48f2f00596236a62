"""A project's saved runs over time: what each changed against the one before."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.comparison import (
    BaselineError,
    SavedRun,
    VersionComparison,
    compare_versions,
)
from harness.analysis.layers import LayerResult
from harness.data.activations import AnalysisError, LayerSite
from harness.settings import Criteria

Mark = Literal["changed", "turned"]


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
        """What is shown to have changed in a layer: d beyond the margin, or the direction."""
        layer = None if self.change is None else self.change.layers.get(key)
        if layer is None:
            return ()
        turned = layer.separated and layer.drift is not None and layer.drift.verdict == "turned"
        changed = layer.comparison.verdict == "changed"
        found: Mapping[Mark, bool] = {"changed": changed, "turned": turned}
        return tuple(mark for mark, shown in found.items() if shown)


def versions_of(runs: Iterable[SavedRun], criteria: Criteria) -> list[Version]:
    """Each run, in the order given, held against the one before by margin and cosine."""
    found: list[Version] = []
    for run in runs:
        if not found:
            found.append(Version(run))
            continue
        try:
            found.append(Version(run, compare_versions(found[-1].run, run, criteria)))
        except (BaselineError, AnalysisError) as error:
            found.append(Version(run, reason=str(error)))
    return found


def layers_of(versions: Sequence[Version]) -> list[LayerSite]:
    """Every layer and site of any version, site by site."""
    every = {key for version in versions for key in version.run.analysis}
    return sorted(every, key=lambda key: (key[1], key[0]))
