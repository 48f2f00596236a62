"""What a pytest session holds: what was asked for, and what was found.

Imported in everybody's runs, so nothing heavy is, before one of our checks is collected.
"""

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from gemma_mlx.errors import UserError
from gemma_mlx.system.terminal import printable
from harness.options import Option
from harness.testing.progress import bars_through_capture

if TYPE_CHECKING:
    from harness.progress import Bars
    from harness.results import Results
    from harness.testing.plan import Plan

T = TypeVar("T")

#: Figures that each check's report carries, as JUnit's XML then does.
PROPERTIES = {
    "d", "d_interval_lower", "d_interval_upper", "accuracy", "accuracy_interval_lower",
    "accuracy_interval_upper", "p_adjusted", "n_pairs",
}  # fmt: skip


class PytestOptions:
    """A pytest configuration as `harness.options` reads one."""

    def __init__(self, config: pytest.Config):
        self._config = config

    def getoption(self, name: str) -> Any:
        return self._config.getoption(name)

    def getini(self, name: str) -> Any:
        return self._config.getini(name)

    def spelling(self, option: Option[Any]) -> str:
        short = self._config.pluginmanager.hasplugin("harness.short_options")
        return option.short_flag if short and option.short else option.flag


class Session:
    """One pytest session.

    Attributes:
        results: what was found, once it is computed.
        saved: where the run was saved as a baseline.
        earlier: where the report of an earlier run went.
        refused: why the run ended without results.
        stopped: what is said where a signal ended it.
        lacking: checks that weren't collected, by file and by what they need.
        failed: reports of failed tests, in pytest's order.
        reports: of tests that took a layer's result, one each.
    """

    def __init__(self, config: pytest.Config):
        self._config = config
        self.results: Results | None = None
        self.saved: Path | None = None
        self.earlier: Path | None = None
        self.refused: str | None = None
        self.stopped: str | None = None
        self.lacking: dict[Path, dict[str, str]] = {}
        self.failed: list[Any] = []
        self.reports: list[pytest.TestReport] = []

    @property
    def wanted(self) -> bool:
        """Whether one of our checks was collected."""
        return "plan" in vars(self)

    @cached_property
    def plan(self) -> "Plan | UserError":
        """What the options ask for, or why they can't be used."""
        from harness.testing.plan import make_plan

        try:
            return make_plan(
                PytestOptions(self._config),
                bars=lambda *arguments, **how: self._bars(*arguments, **how),
                causal=_asks_for_causal(self._config.option.markexpr),
            )
        except UserError as error:
            return error

    @cached_property
    def _bars(self) -> "Bars":
        return bars_through_capture(self._config)

    def good_plan(self) -> "Plan | None":
        return None if not self.wanted or isinstance(self.plan, UserError) else self.plan

    def keep(self, report: pytest.TestReport) -> None:
        """Keep the report of a test that took a layer's result."""
        told = report.when == "call" or report.outcome != "passed"
        if told and dict(report.user_properties).keys() >= PROPERTIES:
            self.reports.append(report)

    def add_results(self, **found: Any) -> None:
        """Complete the results: `comparison`, `interventions`."""
        assert self.results is not None
        self.results = replace(self.results, **found)


_SESSION = pytest.StashKey[Session]()


def session_of(config: pytest.Config) -> Session:
    if _SESSION not in config.stash:
        config.stash[_SESSION] = Session(config)
    return config.stash[_SESSION]


def or_exit(work: Callable[[], T]) -> T:
    """What `work` gives. Input that can't be used ends the run with one line and exit code 4, as a
    wrong option does."""
    try:
        return work()
    except UserError as error:
        pytest.exit(printable(error), returncode=pytest.ExitCode.USAGE_ERROR)


def once(config: pytest.Config, folder: Path, name: str, work: Callable[[], T]) -> T:
    """What `work` gives. Of pytest-xdist's workers one does it, and the others wait for it.

    Args:
        folder: the worker's own temporary folder; those of all lie in one.
        name: of the files, beside it, by which they agree.
    """
    if not hasattr(config, "workerinput"):
        return work()
    import fcntl

    path = folder.parent / f"{name}.pickle"
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            found: T = pickle.loads(path.read_bytes())
        else:
            found = work()
            path.write_bytes(pickle.dumps(found))
    return found


def _asks_for_causal(expression: str) -> bool:
    """Whether `-m` selects the interventions, which nobody is to wait for unasked."""
    return bool(re.search(r"(?<!\bnot )\bcausal\b", " ".join(expression.split())))
