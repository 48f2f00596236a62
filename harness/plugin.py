"""The pytest plugin: options to checks, results to terminal and files.

Loaded in every run of pytest in an environment that the package is installed in. So nothing heavy
is imported, and nothing of the run is changed, before one of our checks is collected. What a check
can ask for is in `harness.testing.fixtures`, which comes with it.
"""

import pickle
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

import pytest

from gemma_mlx.errors import UserError
from gemma_mlx.sites import OTHER_SITES, SITES
from gemma_mlx.system.interrupts import interruptible
from gemma_mlx.system.terminal import printable
from harness.options import ADAPTER, BASE_MODEL, COMPARE, NOISE, OPENINGS, OPTIONS, POSITIONS
from harness.settings import INTERRUPTED
from harness.testing import failures
from harness.testing.session import PROPERTIES, Session, or_exit, session_of

_FIXTURES = "harness.testing.fixtures"
pytest_plugins = [_FIXTURES]

# Attribute of a check that is collected only if the plan gives what it names (`needs`).
_NEEDS = "_artifact_needs"
# What a worker of pytest-xdist found, in its output.
_OUTPUT = "artifact_harness"


#: What can be needed: fields of the plan and of its experiment, and what would give them.
GIVEN_BY = {
    "adapter": f"{ADAPTER.flag} {ADAPTER.metavar}",
    "baseline": f"{COMPARE.flag} {COMPARE.metavar}",
    "causal": "-m causal",
    "base": f"{BASE_MODEL.flag} {BASE_MODEL.metavar}",
    "companions": f"a second {POSITIONS.flag}",
    "noise": NOISE.flag,
    "openings": OPENINGS.flag,
    "words_differ": f"{POSITIONS.flag} generated",
}


def needs(field: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a check that is collected only if `field`, one of `GIVEN_BY`'s, was given.

    Raises:
        pytest.Collector.CollectError: there is no such field; those that there are are named.
    """
    if field not in GIVEN_BY:
        raise pytest.Collector.CollectError(
            f"needs({field!r}): there is no such input; a check can need {', '.join(GIVEN_BY)}"
        )

    def mark(check: Callable[..., None]) -> Callable[..., None]:
        setattr(check, _NEEDS, field)
        return check

    return mark


def require(verdict: Any) -> None:
    """Fail a check whose verdict isn't "passed", with the explanation; skip it where the verdict
    can't be decided, or None, not asked."""
    if verdict is None:
        pytest.skip("not asked")
    if not verdict.decidable:
        pytest.skip(verdict.explanation)
    verdict.require()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("artifacts", "alignment artifacts (each also an ini key, artifact_…)")
    for option in OPTIONS:
        group.addoption(option.flag, help=option.help, **option.keywords)
        kind: Literal["bool", "string"] = "bool" if option.is_switch else "string"
        parser.addini(option.dest, option.help, type=kind, default=None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "causal: interventions on the model, opted into with -m causal"
    )


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> Any:
    """Checks whose input isn't given aren't collected."""
    # Nothing else in somebody's module is touched: some objects can't stand to be looked at.
    needed = getattr(obj, _NEEDS, None) if type(obj) is FunctionType else None
    plan = session_of(collector.config).plan if isinstance(needed, str) else None
    if plan is None or isinstance(plan, UserError) or plan.gives(str(needed)):
        return None
    session_of(collector.config).lacking.setdefault(collector.path, {})[str(needed)] = name
    return []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not _takes_layer_result(metafunc):
        return
    plan = session_of(metafunc.config).plan
    if isinstance(plan, UserError):
        # Said once, by pytest_collection_modifyitems.
        metafunc.parametrize("layer_result", [], indirect=True)
        return
    family = plan.experiment.family
    ids = [f"layer_{layer}-{site}" for layer, site in family]
    metafunc.parametrize("layer_result", family, indirect=True, ids=ids)
    if "companion" in metafunc.fixturenames:
        metafunc.parametrize("companion", plan.experiment.companions)


def _takes_layer_result(metafunc: pytest.Metafunc) -> bool:
    """Whether a test takes our `layer_result`: other suites may have a fixture of that name."""
    found = metafunc._arg2fixturedefs.get("layer_result", ())
    return bool(found) and found[-1].func.__module__ == _FIXTURES


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    ours = session_of(config)
    if not ours.wanted:
        return
    config.option.keyword = _exact_layers(config.option.keyword)
    _refuse(ours, _asked_in_vain(ours, config, items))


def _asked_in_vain(
    ours: Session, config: pytest.Config, items: list[pytest.Item]
) -> UserError | None:
    """Files named on the command line none of whose checks has its input."""
    named = [argument.partition("::")[0] for argument in config.args]
    files = {Path(name).resolve() for name in named}
    modules = {name.rpartition(".")[2] for name in named if config.option.pyargs}
    for file, lacking in ours.lacking.items():
        if (file in files or file.stem in modules) and not any(item.path == file for item in items):
            inputs = " or ".join(GIVEN_BY[field] for field in lacking)
            return UserError(f"{file.name}: its checks need {inputs}")
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """The controller of pytest-xdist collects nothing itself: what was asked for is known there
    when the first check's report comes from a worker."""
    node = getattr(report, "node", None)
    if node is not None:
        ours = session_of(node.config)
        if not ours.wanted and dict(report.user_properties).keys() >= PROPERTIES:
            _refuse(ours)
        ours.keep(report)


def _refuse(ours: Session, fault: UserError | None = None) -> None:
    """A plan that can't be used, or another fault, ends the run with one line."""
    fault = ours.plan if isinstance(ours.plan, UserError) else fault
    if fault is not None:
        ours.refused = printable(fault)
        raise pytest.UsageError(ours.refused)


def _exact_layers(keyword: str) -> str:
    """`-k layer_1` means layer 1 alone and `-k layer_1-mlp_out` that site alone, but pytest looks
    for substrings: say what follows the name in a test's id."""

    def exact(found: re.Match[str]) -> str:
        layer, site = found.groups()
        if site is None:
            return f"{layer}-"
        name = f"{layer}-{site}"
        return f"({name}] or {name}-)" if site in {*SITES, *OTHER_SITES} else name

    return re.sub(r"(?i)(?<![\w\[.:-])(layer_\d+)(?:-(\w+))?(?![\w\].:-])", exact, keyword)


@contextmanager
def _interruptible(ours: Session) -> Iterator[None]:
    """Checks can be stopped by SIGTERM, too; other tests' signals are their own."""
    if ours.good_plan() is None:
        yield
        return
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        ours.stopped = INTERRUPTED
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    ours = session_of(session.config)
    try:
        with _interruptible(ours):
            return (yield)
    except pytest.exit.Exception as stopped:
        if hasattr(session.config, "workeroutput"):
            ours.refused = stopped.msg
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    if call.excinfo is not None and session_of(item.config).results is not None:
        from harness.analysis.verdict import CheckFailedError

        if call.excinfo.errisinstance(CheckFailedError):
            # The explanation says it all; the check's source says nothing more.
            outcome.longrepr = call.excinfo.getrepr(style="value")
            failures.mark(outcome, call.excinfo.value)
    if not hasattr(item.config, "workerinput"):
        session_of(item.config).keep(outcome)
    return outcome


@pytest.hookimpl(specname="pytest_sessionfinish", wrapper=True, tryfirst=True)
def pytest_sessionfinish_interrupted(session: pytest.Session) -> Generator[None, Any, Any]:
    ours = session_of(session.config)
    try:
        with _interruptible(ours):
            return (yield)
    except KeyboardInterrupt:
        if ours.stopped is None:
            raise
        # pytest reports an interrupt as such only while tests run; here it would be a traceback.
        pytest.exit(INTERRUPTED, returncode=pytest.ExitCode.INTERRUPTED)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    ours = session_of(config)
    plan = ours.good_plan()
    if hasattr(config, "workeroutput"):
        # A worker of pytest-xdist: the controller alone writes and says anything.
        config.workeroutput[_OUTPUT] = pickle.dumps((ours.results, ours.refused))
        if ours.refused is not None:
            # The one way to end a run from a worker; a plain exit trips xdist up.
            config.workeroutput["shouldstop"] = ours.refused
    elif ours.results is not None and plan is not None:
        # A full disk, say, is told in one line too.
        or_exit(lambda: _write_results(ours, config))
    elif ours.refused is not None:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what an xdist worker found. All workers find the same, as far as their checks
    asked for it."""
    output = getattr(node, "workeroutput", {}).get(_OUTPUT)
    if output is None:
        return
    ours = session_of(node.config)
    results, refused = pickle.loads(output)
    ours.refused = refused or ours.refused
    if results is None:
        return
    if ours.results is None:
        ours.results = results
        return
    from harness.results.provenance import ALL_REUSED

    earlier = ours.results
    # One worker may have collected what the others then found in the store.
    if earlier.analysis.provenance.get("origin") == ALL_REUSED:
        ours.results = results
    ours.add_results(
        interventions=results.interventions or earlier.interventions,
        comparison=results.comparison or earlier.comparison,
    )


def _write_results(ours: Session, config: pytest.Config) -> None:
    plan, results = ours.good_plan(), ours.results
    assert plan is not None
    assert results is not None
    ours.earlier = results.write(
        plan.report,
        checks=list(_of_others(ours.reports, results, config.rootpath)),
        over_time=results.over_time(
            progress=partial(plan.experiment.bars, desc="over time", unit="version")
        ),
    )
    if plan.save_as is not None:
        ours.saved = results.save(plan.save_as)


@pytest.hookimpl(specname="pytest_terminal_summary", wrapper=True, tryfirst=True)
def pytest_terminal_summary_around(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, Any, Any]:
    """Around all that pytest says of single failures: like ones are said once, and what may be
    said stands at the end."""
    ours = session_of(config)
    ours.failed = failures.hide_like(terminalreporter)
    result = yield
    if ours.results is not None and config.get_verbosity() >= 0:
        from harness.report import tables

        for line, outcome in tables.ladder_table(ours.results):
            terminalreporter.line(line, **_colour(outcome))
    return result


def _colour(outcome: str | None) -> dict[str, bool]:
    colours = {"passed": "green", "failed": "red", "inconclusive": "yellow"}
    return {colours[outcome]: True} if outcome in colours else {}


def _of_others(reports: list[pytest.TestReport], results: Any, root: Path) -> Iterator[Any]:
    """What checks found that aren't the harness' own, whose verdicts the results hold."""
    from harness.report.checks import CHECKS, Reported

    own, ids = {check.name for check in CHECKS}, {result.id for result in results.values()}
    for report in reports:
        # Of a test that `--pyargs` runs from elsewhere the node id has no folder.
        file, test = root / report.location[0], report.nodeid.partition("::")[2]
        name, _, parameters = test.removesuffix("]").partition("[")
        if name in own and file.parent.name == "artifact_checks":
            continue
        layer = next((i for i in ids if parameters == i or parameters.startswith(f"{i}-")), "")
        rest = parameters.removeprefix(layer).removeprefix("-")
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        yield Reported(f"{name}[{rest}]" if rest else name, layer, report.outcome, said)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    ours = session_of(config)
    failures.show_like(terminalreporter, ours.failed)
    if ours.stopped is not None:
        terminalreporter.line(ours.stopped)
    plan, results = ours.good_plan(), ours.results
    if results is None or plan is None or hasattr(config, "workeroutput"):
        return
    from harness.report import sentences, tables

    title = f"alignment artifacts: {sentences.model_name(results.analysis)}"
    if base := results.analysis.provenance.get("base_model"):
        title += f", base model {base}"
    terminalreporter.section(printable(title))
    if config.get_verbosity() >= 0:
        header, *rows = tables.terminal_table(results, plan.table)
        terminalreporter.line(header[0], bold=True)
        for line, outcome in rows:
            terminalreporter.line(line, **_colour(outcome))
        terminalreporter.line("")
    for said in (
        sentences.headline(results),
        sentences.not_asked_sentence(results),
        sentences.behaviour_sentence(results),
        sentences.openings_sentence(results),
        sentences.text_sentence(results),
        sentences.power_sentence(results),
        sentences.noise_sentence(results),
    ):
        if said:
            terminalreporter.line(said)
    close = sentences.close_sentence(results)
    if close:
        terminalreporter.line(close, yellow=True)
    if results.comparison is not None:
        terminalreporter.line(printable(sentences.comparison_headline(results.comparison)))
    if ours.saved is not None:
        terminalreporter.line(f"saved as baseline {ours.saved}")
    terminalreporter.line(f"report, plot and results: {plan.report}/")
    if ours.earlier is not None:
        from harness.results.value import kept_sentence

        terminalreporter.line(kept_sentence(ours.earlier))
