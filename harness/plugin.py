"""The pytest plugin: options to checks, results to reports. What it does is done elsewhere.

What a check can ask for is in `harness.testing.fixtures`, which comes with it.
"""

import base64
import pickle
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import gemma_mlx
from gemma_mlx.system.interrupts import interruptible
from gemma_mlx.system.terminal import printable
from harness import options
from harness.analysis.layers import layer_id
from harness.analysis.verdict import CheckFailedError
from harness.experiment import INTERRUPTED
from harness.report import page as report
from harness.report import plots, tables
from harness.report.outputs import REPORT_NAME, write_outputs
from harness.results.baseline import save_baseline
from harness.results.provenance import FOUND
from harness.testing.html import ask_for_report
from harness.testing.plan import Plan
from harness.testing.session import (
    ANALYSIS,
    CAUSAL,
    COMPARISON,
    PLAN,
    REFUSED,
    SAVED,
    STOPPED,
    finished,
    or_exit,
    plan_of,
)

pytest_plugins = ["harness.testing.fixtures"]

#: Attribute of a check that is collected only if the plan has what it names (`needs`).
NEEDS = "_artifact_needs"


# What a session found, and its name in the output of an xdist worker.
_FOUND: tuple[pytest.StashKey[Any], ...] = (ANALYSIS, COMPARISON, CAUSAL, REFUSED)
_OUTPUT = "artifact_harness"


def needs(field: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a check that is collected only if the plan's `field` was given."""

    def mark(check: Callable[..., None]) -> Callable[..., None]:
        setattr(check, NEEDS, field)
        return check

    return mark


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "causal: interventions on the model, opted into with -m causal"
    )
    config.option.keyword = _exact_layers(config.option.keyword)
    folder = Path(options.read(config, "report"))
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise pytest.UsageError(f"--artifact-report {folder}: {there} is a file, not a folder")
    ask_for_report(config, folder / REPORT_NAME)


def _exact_layers(keyword: str) -> str:
    """`-k layer_1` means layer 1 alone and `-k layer_1-mlp_out` that site alone, but pytest looks
    for substrings: say what follows the name in a test's id."""

    def exact(found: re.Match[str]) -> str:
        layer, site = found.groups()
        if site is None:
            return f"{layer}-"
        name = f"{layer}-{site}"
        return f"({name}] or {name}-)" if site in gemma_mlx.SITES else name

    return re.sub(r"(?i)(?<![\w\[.:-])(layer_\d+)(?:-(\w+))?(?![\w\].:-])", exact, keyword)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    plan = plan_of(metafunc.config) if "layer_result" in metafunc.fixturenames else None
    # A plan that failed is reported once, by pytest_collection_modifyitems.
    if isinstance(plan, Plan):
        family = plan.family
        metafunc.parametrize(
            "layer_result", family, indirect=True, ids=[layer_id(*key) for key in family]
        )
        if "companion" in metafunc.fixturenames:
            metafunc.parametrize("companion", plan.companions)
    elif plan is not None:
        metafunc.parametrize("layer_result", [], indirect=True)


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Any:
    """Checks whose input isn't given aren't collected."""
    needed = getattr(obj, NEEDS, None)
    plan = plan_of(collector.config) if needed else None
    return [] if isinstance(plan, Plan) and not getattr(plan, str(needed)) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config) -> None:
    plan = config.stash.get(PLAN, None)
    if isinstance(plan, Exception):
        config.stash[REFUSED] = printable(plan)
        raise pytest.UsageError(printable(plan)) from None


@contextmanager
def _interruptible(config: pytest.Config) -> Iterator[None]:
    """Checks can be stopped by SIGTERM, too; other tests' signals are their own."""
    if not isinstance(config.stash.get(PLAN, None), Plan):
        yield
        return
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        config.stash[STOPPED] = INTERRUPTED
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    try:
        with _interruptible(session.config):
            return (yield)
    except pytest.exit.Exception as stopped:
        if hasattr(session.config, "workeroutput"):
            session.config.stash[REFUSED] = stopped.msg
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    if call.excinfo is not None and call.excinfo.errisinstance(CheckFailedError):
        # The explanation says it all; the check's source says nothing more.
        outcome.longrepr = call.excinfo.getrepr(style="value")
        if item.config.pluginmanager.hasplugin("html"):
            outcome.extras = [*getattr(outcome, "extras", []), *_figures(item)]
    return outcome


def _figures(item: pytest.Item) -> list[Any]:
    """The held-out scores of the layer that an item checks."""
    from pytest_html import extras

    result = getattr(item, "funcargs", {}).get("layer_result")
    if result is None:
        return []
    picture = plots.to_bytes(plots.scores_figure(result), "svg")
    return [extras.svg(base64.b64encode(picture).decode(), name=f"held-out scores, {result.id}")]


@pytest.hookimpl(optionalhook=True)
def pytest_html_report_title(report: Any) -> None:
    report.title = "Alignment artifacts"


@pytest.hookimpl(optionalhook=True)
def pytest_html_results_summary(prefix: list[str], session: pytest.Session) -> None:
    found = finished(session.config)
    if found is not None:
        stash = session.config.stash
        prefix.append(
            report.summary_html(
                *found, compared=stash.get(COMPARISON, None), causal=stash.get(CAUSAL, {})
            )
        )


@pytest.hookimpl(specname="pytest_sessionfinish", wrapper=True, tryfirst=True)
def pytest_sessionfinish_interrupted(session: pytest.Session) -> Generator[None, Any, Any]:
    try:
        with _interruptible(session.config):
            return (yield)
    except KeyboardInterrupt:
        if STOPPED not in session.config.stash:
            raise
        # So late, pytest would show a traceback.
        pytest.exit(INTERRUPTED, returncode=pytest.ExitCode.INTERRUPTED)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workeroutput"):
        # An xdist worker: the controller alone writes and says anything.
        found = [config.stash.get(key, None) for key in _FOUND]
        config.workeroutput[_OUTPUT] = pickle.dumps(found)
        if REFUSED in config.stash:
            # The one way to end a run from a worker; a plain exit trips xdist up.
            config.workeroutput["shouldstop"] = config.stash[REFUSED]
    elif ANALYSIS in config.stash:
        # A full disk, say, is told in one line too.
        or_exit(lambda: _write_results(config))
    elif REFUSED in config.stash:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what an xdist worker found. All workers find the same, but for the layers that
    each has measured interventions at."""
    output = getattr(node, "workeroutput", {}).get(_OUTPUT)
    if output is None:
        return
    stash = node.config.stash
    causal = dict(stash.get(CAUSAL, {}))
    first = stash.get(ANALYSIS, None)
    for key, value in zip(_FOUND, pickle.loads(output), strict=True):
        if value is not None:
            stash[key] = value
    # One worker may have collected what the others then found in the store.
    if first is not None and first.provenance.get("origin") != FOUND:
        stash[ANALYSIS] = first
    stash[CAUSAL] = {**causal, **stash.get(CAUSAL, {})}


def _write_results(config: pytest.Config) -> None:
    found = finished(config)
    if found is None:
        return
    folder = Path(options.read(config, "report"))
    stash = config.stash
    write_outputs(folder, *found, stash.get(COMPARISON, None), stash.get(CAUSAL, {}))
    plan = config.stash[PLAN]
    if isinstance(plan, Plan) and plan.save_as is not None:
        config.stash[SAVED] = save_baseline(plan.save_as, *found)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if STOPPED in config.stash:
        terminalreporter.line(config.stash[STOPPED])
    found = finished(config)
    if found is None or hasattr(config, "workeroutput"):
        return
    plan = config.stash[PLAN]
    assert isinstance(plan, Plan)
    terminalreporter.section("alignment artifacts")
    colours = {"passed": "green", "failed": "red", "inconclusive": "yellow"}
    if config.get_verbosity() >= 0:
        header, *rows = tables.terminal_table(*found, columns=plan.columns, sort=plan.sort)
        terminalreporter.line(header[0], bold=True)
        for line, outcome in rows:
            terminalreporter.line(line, **{colours[outcome]: True})
        terminalreporter.line("")
    terminalreporter.line(report.headline(*found))
    terminalreporter.line(report.power_sentence(*found))
    close = report.close_sentence(*found)
    if close:
        terminalreporter.line(close, yellow=True)
    if COMPARISON in config.stash:
        terminalreporter.line(printable(report.comparison_headline(config.stash[COMPARISON])))
    if SAVED in config.stash:
        terminalreporter.line(f"saved as baseline {config.stash[SAVED]}")
    left = "report, plot" if config.pluginmanager.hasplugin("html") else "plot"
    terminalreporter.line(f"{left} and results: {options.read(config, 'report')}/")
