"""The pytest plugin: options to fixtures, results to reports. What it does is done elsewhere."""

import base64
import pickle
import re
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

import gemma_mlx
from gemma_mlx import Checkpoint
from gemma_mlx.interrupts import interruptible
from gemma_mlx.terminal import printable
from harness import options, plots, report, tables
from harness.activations import LayerSite
from harness.analysis import Analysis, LayerResult, analyze, layer_id
from harness.baseline import compare_with, save_baseline
from harness.causality import Effect
from harness.causality import causal_effects as measure_effects
from harness.html_report import ANALYSIS, ask_for_report
from harness.outputs import REPORT_NAME, write_outputs
from harness.pairs import PromptPairs
from harness.plan import EXPECTED_ERRORS, Plan, make_plan
from harness.provenance import COLLECTED, origin, provenance
from harness.run import INTERRUPTED, Collection
from harness.store import RunStore
from harness.verdict import CheckFailedError, Criteria
from harness.versions import LayerComparison, Version, VersionComparison, check_comparable

#: Attribute of a check that is collected only if the plan has what it names (`needs`).
NEEDS = "_artifact_needs"


_PLAN = pytest.StashKey[Plan | Exception]()
_SAVED = pytest.StashKey[Path]()
_CAUSAL = pytest.StashKey[dict[LayerSite, tuple[Effect, Effect]]]()
_COMPARISON = pytest.StashKey[VersionComparison]()

_REFUSED = pytest.StashKey[str]()
_INTERRUPTED = pytest.StashKey[str]()

# What a session found, and its name in the output of an xdist worker.
_FOUND: tuple[pytest.StashKey[Any], ...] = (ANALYSIS, _COMPARISON, _CAUSAL, _REFUSED)
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
    plan = _plan(metafunc.config) if "layer_result" in metafunc.fixturenames else None
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
    plan = _plan(collector.config) if needed else None
    return [] if isinstance(plan, Plan) and not getattr(plan, str(needed)) else None


def _plan(config: pytest.Config) -> Plan | Exception:
    if _PLAN not in config.stash:
        try:
            config.stash[_PLAN] = make_plan(config, causal="causal" in config.option.markexpr)
        except (pytest.UsageError, *EXPECTED_ERRORS) as error:
            config.stash[_PLAN] = error
    return config.stash[_PLAN]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config) -> None:
    plan = config.stash.get(_PLAN, None)
    if isinstance(plan, Exception):
        config.stash[_REFUSED] = printable(plan)
        raise pytest.UsageError(printable(plan)) from None


@contextmanager
def _interruptible(config: pytest.Config) -> Iterator[None]:
    """Checks can be stopped by SIGTERM, too; other tests' signals are their own."""
    if not isinstance(config.stash.get(_PLAN, None), Plan):
        yield
        return
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        config.stash[_INTERRUPTED] = INTERRUPTED
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    try:
        with _interruptible(session.config):
            return (yield)
    except pytest.exit.Exception as stopped:
        if hasattr(session.config, "workeroutput"):
            session.config.stash[_REFUSED] = stopped.msg
        raise


@pytest.fixture(scope="session")
def artifact_plan(pytestconfig: pytest.Config) -> Plan:
    """The options of this run."""
    plan = _plan(pytestconfig)
    if isinstance(plan, Exception):
        pytest.exit(printable(plan), returncode=pytest.ExitCode.USAGE_ERROR)
    return plan


@pytest.fixture(scope="session")
def criteria(artifact_plan: Plan) -> Criteria:
    """What a layer has to meet."""
    return artifact_plan.criteria


@pytest.fixture(scope="session")
def prompt_pairs(artifact_plan: Plan) -> PromptPairs:
    """The pairs of `--pairs`."""
    return artifact_plan.pairs


@pytest.fixture(scope="session")
def checkpoint(artifact_plan: Plan) -> Checkpoint:
    """The files of `--model`; nothing of them is loaded."""
    return _or_exit(
        lambda: gemma_mlx.find_checkpoint(artifact_plan.model, revision=artifact_plan.revision)
    )


@pytest.fixture(scope="session")
def gemma(checkpoint: Checkpoint) -> gemma_mlx.Gemma:
    """The loaded model, for checks that need to run it."""
    return _or_exit(lambda: gemma_mlx.load_checkpoint(checkpoint))


@pytest.fixture(scope="session")
def run_provenance(artifact_plan: Plan, checkpoint: Checkpoint) -> dict[str, Any]:
    """Model, pairs, settings, versions and machine of this run."""
    return _or_exit(
        lambda: provenance(
            artifact_plan.model,
            artifact_plan.revision,
            checkpoint,
            artifact_plan.pairs,
            artifact_plan.collection,
            artifact_plan.analysis,
        )
    )


@pytest.fixture(scope="session")
def baseline(artifact_plan: Plan, run_provenance: dict[str, Any]) -> Version | None:
    """The run that `--artifact-compare` names, comparable with this one."""
    found = artifact_plan.baseline
    if found is not None:
        _or_exit(lambda: check_comparable(found, run_provenance, artifact_plan.family))
    return found


@pytest.fixture(scope="session")
def collection(artifact_plan: Plan, checkpoint: Checkpoint) -> Collection:
    """How this run collects."""
    return Collection(
        checkpoint,
        artifact_plan.pairs,
        artifact_plan.collection,
        artifact_plan.store,
        again=artifact_plan.recollect,
    )


@pytest.fixture(scope="session")
def activations(collection: Collection) -> RunStore:
    """The run's activations: from the store, or collected into it now."""
    return _or_exit(collection.collect)


@pytest.fixture(scope="session")
def companions(
    artifact_plan: Plan, collection: Collection, activations: RunStore
) -> dict[str, RunStore]:
    """The same prompts at other positions."""
    return _or_exit(lambda: collection.companions(artifact_plan.companions))


@pytest.fixture(scope="session")
def base_activations(artifact_plan: Plan, collection: Collection) -> RunStore | None:
    """The base model's activations, if `--base-model` names one."""
    name = artifact_plan.base_model
    if name is None:
        return None
    return _or_exit(
        lambda: replace(collection, checkpoint=gemma_mlx.find_checkpoint(name)).collect()
    )


@pytest.fixture(scope="session")
def analysis(
    artifact_plan: Plan,
    run_provenance: dict[str, Any],
    baseline: Version | None,
    activations: RunStore,
    companions: dict[str, RunStore],
    base_activations: RunStore | None,
    pytestconfig: pytest.Config,
) -> Analysis:
    """Results by (layer, site) for the run's whole family, whatever is selected.

    `baseline` is here to be refused, if it can't be compared, before anything is collected.
    """
    found = _or_exit(
        lambda: analyze(
            activations,
            artifact_plan.pairs,
            layers=artifact_plan.layers,
            sites=artifact_plan.collection.sites,
            settings=artifact_plan.analysis,
            companions=companions,
            base=base_activations,
            provenance={**run_provenance, **origin(activations)},
            progress=_bar("resampling", "layer"),
        )
    )
    pytestconfig.stash[ANALYSIS] = found
    return found


@pytest.fixture(scope="session")
def version_comparison(
    artifact_plan: Plan,
    analysis: Analysis,
    baseline: Version | None,
    criteria: Criteria,
    pytestconfig: pytest.Config,
) -> VersionComparison | None:
    """This run against the baseline, if there is one."""
    if baseline is None:
        return None
    found = _or_exit(
        lambda: compare_with(baseline, analysis, criteria, margin=artifact_plan.margin)
    )
    for warning in found.warnings:
        warnings.warn(printable(f"comparing with {baseline.name}: {warning}"), stacklevel=1)
    pytestconfig.stash[_COMPARISON] = found
    return found


@pytest.fixture
def layer_comparison(
    layer_result: LayerResult, version_comparison: VersionComparison
) -> LayerComparison:
    """One layer at one site in the baseline and in this run."""
    return version_comparison.layers[layer_result.layer, layer_result.site]


@pytest.fixture(scope="session")
def causal_findings(pytestconfig: pytest.Config) -> dict[LayerSite, tuple[Effect, Effect]]:
    """Addition and ablation at the layers that were measured so far."""
    return pytestconfig.stash.setdefault(_CAUSAL, {})


@pytest.fixture
def causal_effects(
    layer_result: LayerResult,
    causal_findings: dict[LayerSite, tuple[Effect, Effect]],
    artifact_plan: Plan,
    analysis: Analysis,
    activations: RunStore,
    gemma: gemma_mlx.Gemma,
) -> tuple[Effect, Effect]:
    """What adding and ablating the direction of one layer at one site does."""
    key = layer_result.layer, layer_result.site
    if key not in causal_findings:
        causal_findings[key] = _or_exit(
            lambda: measure_effects(
                gemma,
                analysis.activations,
                activations.responses(),
                key,
                chat=artifact_plan.collection.chat,
                level=artifact_plan.analysis.level,
                seed=artifact_plan.analysis.seed,
                progress=_bar(f"intervening at {layer_result.id}", "direction"),
            )
        )
    return causal_findings[key]


@pytest.fixture
def layer_result(
    request: pytest.FixtureRequest, analysis: Analysis, criteria: Criteria
) -> LayerResult:
    """One layer at one site; a test that takes it runs once for each of the run's family."""
    result = analysis[request.param]
    for name in ("d", "d_interval", "accuracy", "accuracy_interval", "p_adjusted", "n_pairs"):
        request.node.user_properties.append((name, getattr(result.separation, name)))
    return result


def _bar(what: str, unit: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """A progress bar where there is a terminal."""
    return partial(tqdm, desc=what, unit=unit, disable=None, leave=False)


def _or_exit(work: Callable[[], Any]) -> Any:
    """Input that can't be used ends the run with one line, as a wrong option does."""
    try:
        return work()
    except EXPECTED_ERRORS as error:
        pytest.exit(printable(error), returncode=pytest.ExitCode.USAGE_ERROR)


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


def _finished(config: pytest.Config) -> tuple[Analysis, Criteria] | None:
    """The run's results, if any check needed them."""
    if ANALYSIS not in config.stash:
        return None
    plan = _plan(config)
    assert isinstance(plan, Plan)
    return config.stash[ANALYSIS], plan.criteria


@pytest.hookimpl(optionalhook=True)
def pytest_html_report_title(report: Any) -> None:
    report.title = "Alignment artifacts"


@pytest.hookimpl(optionalhook=True)
def pytest_html_results_summary(prefix: list[str], session: pytest.Session) -> None:
    found = _finished(session.config)
    if found is not None:
        stash = session.config.stash
        prefix.append(
            report.summary_html(
                *found, compared=stash.get(_COMPARISON, None), causal=stash.get(_CAUSAL, {})
            )
        )


@pytest.hookimpl(specname="pytest_sessionfinish", wrapper=True, tryfirst=True)
def pytest_sessionfinish_interrupted(session: pytest.Session) -> Generator[None, Any, Any]:
    try:
        with _interruptible(session.config):
            return (yield)
    except KeyboardInterrupt:
        if _INTERRUPTED not in session.config.stash:
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
        if _REFUSED in config.stash:
            # The one way to end a run from a worker; a plain exit trips xdist up.
            config.workeroutput["shouldstop"] = config.stash[_REFUSED]
    elif ANALYSIS in config.stash:
        # A full disk, say, is told in one line too.
        _or_exit(lambda: _write_results(config))
    elif _REFUSED in config.stash:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what an xdist worker found. All workers find the same, but for the layers that
    each has measured interventions at."""
    output = getattr(node, "workeroutput", {}).get(_OUTPUT)
    if output is None:
        return
    stash = node.config.stash
    causal = dict(stash.get(_CAUSAL, {}))
    first = stash.get(ANALYSIS, None)
    for key, value in zip(_FOUND, pickle.loads(output), strict=True):
        if value is not None:
            stash[key] = value
    # One worker may have collected what the others then found in the store.
    if first is not None and first.provenance.get("origin") == COLLECTED:
        stash[ANALYSIS] = first
    stash[_CAUSAL] = {**causal, **stash.get(_CAUSAL, {})}


def _write_results(config: pytest.Config) -> None:
    found = _finished(config)
    if found is None:
        return
    folder = Path(options.read(config, "report"))
    stash = config.stash
    write_outputs(folder, *found, stash.get(_COMPARISON, None), stash.get(_CAUSAL, {}))
    plan = config.stash[_PLAN]
    if isinstance(plan, Plan) and plan.save_as is not None:
        config.stash[_SAVED] = save_baseline(plan.save_as, *found)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if _INTERRUPTED in config.stash:
        terminalreporter.line(config.stash[_INTERRUPTED])
    found = _finished(config)
    if found is None or hasattr(config, "workeroutput"):
        return
    plan = config.stash[_PLAN]
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
    if _COMPARISON in config.stash:
        terminalreporter.line(printable(report.comparison_headline(config.stash[_COMPARISON])))
    if _SAVED in config.stash:
        terminalreporter.line(f"saved as baseline {config.stash[_SAVED]}")
    left = "report, plot" if config.pluginmanager.hasplugin("html") else "plot"
    terminalreporter.line(f"{left} and results: {options.read(config, 'report')}/")
