"""What the plugin's parts keep in a pytest session: what was asked for, and what was found."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.system.terminal import printable
from harness.analysis.causality import Effect
from harness.analysis.comparison import VersionComparison
from harness.analysis.layers import Analysis
from harness.data.activations import LayerSite
from harness.settings import Criteria
from harness.testing.plan import EXPECTED_ERRORS, Plan, make_plan

#: The options, or why they can't be used.
PLAN = pytest.StashKey[Plan | Exception]()
#: The results of the session, once they are computed.
ANALYSIS = pytest.StashKey[Analysis]()
COMPARISON = pytest.StashKey[VersionComparison]()
CAUSAL = pytest.StashKey[dict[LayerSite, tuple[Effect, Effect]]]()
#: Where the run was saved as a baseline.
SAVED = pytest.StashKey[Path]()
#: Why the run ended without results.
REFUSED = pytest.StashKey[str]()
#: What is said where a signal ended it.
STOPPED = pytest.StashKey[str]()


def plan_of(config: pytest.Config) -> Plan | Exception:
    """What the options ask for, or why they can't be used; read once."""
    if PLAN not in config.stash:
        try:
            config.stash[PLAN] = make_plan(config, causal="causal" in config.option.markexpr)
        except (pytest.UsageError, *EXPECTED_ERRORS) as error:
            config.stash[PLAN] = error
    return config.stash[PLAN]


def finished(config: pytest.Config) -> tuple[Analysis, Criteria] | None:
    """The run's results, if any check needed them."""
    if ANALYSIS not in config.stash:
        return None
    plan = plan_of(config)
    assert isinstance(plan, Plan)
    return config.stash[ANALYSIS], plan.criteria


def or_exit(work: Callable[[], Any]) -> Any:
    """Input that can't be used ends the run with one line, as a wrong option does."""
    try:
        return work()
    except EXPECTED_ERRORS as error:
        pytest.exit(printable(error), returncode=pytest.ExitCode.USAGE_ERROR)
