"""Failed checks in the terminal: like ones said once, each with a short reason."""

from collections.abc import Iterable
from typing import Any

import pytest

from gemma_mlx.system.terminal import printable

# Attribute of a failed check's report: the figure that decided, its value, what it missed, outcome.
# Plain values, since pytest-xdist sends reports from process to process.
_MISSED = "artifact_missed"


def mark(report: Any, error: Any) -> None:
    """Give a failed check's report its short reason, for pytest's summary line and for groups.

    Args:
        error: a `harness.analysis.verdict.CheckFailedError`.
    """
    # Not before a check of ours has failed: it brings NumPy with it.
    from harness.analysis.words import span

    verdict = error.verdict
    name, value = verdict.figure or ("", 0.0)
    setattr(report, _MISSED, [name, value, verdict.missed, verdict.outcome])
    said = f"{span(name, [value])}: {verdict.missed}" if name else verdict.explanation
    if report.longrepr.reprcrash is not None:
        report.longrepr.reprcrash.message = printable(said)


def hide_like(reporter: pytest.TerminalReporter) -> list[Any]:
    """Keep pytest from showing, one by one, failed checks that have others like them. Returned are
    all failures, for `show_like`.

    With -v, or a style of tracebacks that was asked for, nothing is kept.
    """
    failed: list[Any] = reporter.stats.get("failed", [])
    if reporter.config.get_verbosity() <= 0 and reporter.config.option.tbstyle == "auto":
        checks = _by_check(report for report in failed if hasattr(report, _MISSED))
        like = [id(report) for group in checks.values() if len(group) > 1 for report in group]
        if like:
            reporter.stats["failed"] = [each for each in failed if id(each) not in like]
    return failed


def show_like(reporter: pytest.TerminalReporter, failed: list[Any]) -> None:
    """Say of like failures, once, how many there are and what the first of them says."""
    shown = list(map(id, reporter.stats.get("failed", [])))
    hidden = _by_check(report for report in failed if id(report) not in shown)
    if not hidden:
        return
    reporter.stats["failed"] = failed
    checked = _by_check(
        report
        for reports in reporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
    )
    reporter.section("failed checks")
    for check, group in hidden.items():
        reporter.line(f"{check[1]}: {_summary(group, len(checked[check]))}", bold=True)
        reporter.line(group[0].longreprtext.strip())
        reporter.line("")
    reporter.line("-v says it of each.")


def _summary(group: list[Any], checked: int) -> str:
    """How many of the layers that were checked failed, with what."""
    from harness.analysis.words import span

    figures = [getattr(report, _MISSED) for report in group]
    name = figures[0][0]
    said = [f"{len(group)} of {checked} layers"]
    if name:
        said.append(span(name, [value for _, value, _, _ in figures]))
    undecided = sum(outcome == "inconclusive" for *_, outcome in figures)
    if undecided:
        said.append(f"{undecided} inconclusive")
    return ", ".join(said)


def _by_check(reports: Iterable[Any]) -> dict[tuple[str, str], list[Any]]:
    """Reports by file and name of their test."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for report in reports:
        file, _, name = report.nodeid.partition("::")
        groups.setdefault((file, name.partition("[")[0]), []).append(report)
    return groups
