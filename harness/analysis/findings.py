"""What a run found: its analysis and everything that is judged or shown beside it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.analysis.causality import Effect
from harness.analysis.claims import Ladder, ladder
from harness.analysis.comparison import VersionComparison
from harness.analysis.judges import CRITERIA
from harness.analysis.layers import Analysis, LayerResult
from harness.analysis.verdict import Outcome, Verdict
from harness.data.activations import LayerSite
from harness.settings import Criteria


@dataclass(frozen=True, repr=False)
class Findings(Mapping[LayerSite, LayerResult]):
    """The analysis' results by (layer, site), and what belongs to them.

    Attributes:
        analysis: the estimates.
        criteria: what a layer has to meet.
        comparison: the change from a saved run, where one was given.
        interventions: addition and ablation, at the layers and sites where they were measured.
    """

    analysis: Analysis
    criteria: Criteria
    comparison: VersionComparison | None = None
    interventions: Mapping[LayerSite, tuple[Effect, Effect]] = field(default_factory=dict)

    def __getitem__(self, key: LayerSite) -> LayerResult:
        return self.analysis[key]

    def __iter__(self) -> Iterator[LayerSite]:
        return iter(self.analysis)

    def __len__(self) -> int:
        return len(self.analysis)

    def verdicts(self) -> dict[LayerSite, dict[str, Verdict]]:
        """Each criterion's verdict ("d", "accuracy", "p") by layer and site."""
        return {
            key: {name: judge(result, self.criteria) for name, judge in CRITERIA.items()}
            for key, result in self.items()
        }

    def ladder(self, key: LayerSite) -> Ladder:
        """What may be said of a layer and site."""
        return ladder(self[key], self.criteria, self.interventions.get(key, ()), self.analysis)

    def outcome(self, key: LayerSite) -> Outcome:
        """The worst outcome of all claims that were asked at a layer and site."""
        return self.ladder(key).outcome

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.analysis!r}, {self.criteria!r})"
