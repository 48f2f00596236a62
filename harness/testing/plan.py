"""What a test run asks for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import options
from harness.analysis.comparison import SavedRun
from harness.experiment import Experiment
from harness.progress import Bars
from harness.results.baseline import check_name, find_baseline, load_baseline
from harness.settings import CausalSettings, Criteria, TableSettings
from harness.stats import MIN_PAIRS


@dataclass(frozen=True)
class Plan:
    """An experiment, what its results are held against, and where they go."""

    experiment: Experiment
    criteria: Criteria
    baseline: SavedRun | None
    skip_inconclusive: bool
    causal: CausalSettings | None
    save_as: str | None
    table: TableSettings
    report: Path

    def gives(self, name: str) -> Any:
        """What was given for a field of the plan or of its experiment; empty or None if nothing."""
        return getattr(self if hasattr(self, name) else self.experiment, name)


def make_plan(given: options.Given, *, bars: Bars, causal: bool = False) -> Plan:
    """Read the options, check them as far as the model's config.json allows.

    Args:
        bars: shows the experiment's progress.
        causal: whether interventions were asked for.

    Raises:
        gemma_mlx.errors.UserError: naming the option or file.
    """
    experiment = Experiment.from_options(given, least_pairs=MIN_PAIRS, bars=bars)
    save_as, compare = options.SAVE.read(given), options.COMPARE.read(given)
    if save_as is not None:
        check_name(save_as)
    return Plan(
        experiment=experiment,
        criteria=options.criteria(given),
        baseline=None if compare is None else load_baseline(find_baseline(compare)),
        skip_inconclusive=options.INCONCLUSIVE.read(given) == "skip",
        causal=options.causal_settings(given) if causal else None,
        save_as=save_as,
        table=options.table_settings(given),
        report=options.report_folder(given),
    )
