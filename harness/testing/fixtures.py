"""What a check can ask for, from the options to the results; each is made once for a session.

Registered in everybody's runs, so nothing heavy is imported before a fixture is made.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gemma_mlx.system.terminal import printable
from harness.testing.session import PROPERTIES, once, or_exit, session_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gemma_mlx import Checkpoint, Gemma
    from harness.analysis import Analysis, LayerResult
    from harness.analysis.causality import Effect
    from harness.analysis.comparison import LayerComparison, SavedRun, VersionComparison
    from harness.backends.model import Model
    from harness.data.activations import LayerSite
    from harness.data.pairs import PromptPairs
    from harness.data.store import RunStore
    from harness.experiment import Experiment
    from harness.results import Results
    from harness.settings import Criteria
    from harness.testing.plan import Plan


@pytest.fixture(scope="session")
def artifact_plan(pytestconfig: pytest.Config) -> Plan:
    """The options of this run."""
    plan = session_of(pytestconfig).plan
    if isinstance(plan, Exception):
        pytest.exit(printable(plan), returncode=pytest.ExitCode.USAGE_ERROR)
    return plan


@pytest.fixture(scope="session")
def experiment(artifact_plan: Plan) -> Experiment:
    """What is run: model, pairs, settings, and what they give when asked."""
    return artifact_plan.experiment


@pytest.fixture(scope="session")
def criteria(artifact_plan: Plan) -> Criteria:
    """What a layer has to meet."""
    return artifact_plan.criteria


@pytest.fixture(scope="session")
def prompt_pairs(experiment: Experiment) -> PromptPairs:
    """The pairs of `--artifact-pairs`."""
    return experiment.prompt_pairs


@pytest.fixture(scope="session")
def checkpoint(experiment: Experiment) -> Checkpoint:
    """The files of `--artifact-model`; nothing of them is loaded."""
    return or_exit(lambda: experiment.checkpoint)


@pytest.fixture(scope="session")
def gemma(checkpoint: Checkpoint) -> Gemma:
    """The loaded model, for checks that need to run it; Gemma 2 or 3."""
    import gemma_mlx
    from gemma_mlx import CheckpointError

    def load() -> Gemma:
        if type(checkpoint.config) is not gemma_mlx.GemmaConfig:
            raise CheckpointError(
                f"{checkpoint.path}: the fixture gemma is Gemma 2 or 3; any model is "
                "artifact_language_model"
            )
        return gemma_mlx.load_checkpoint(checkpoint)

    return or_exit(load)


@pytest.fixture(scope="session")
def artifact_language_model(checkpoint: Checkpoint, request: pytest.FixtureRequest) -> Model:
    """The loaded model of any architecture, as `harness.backends.model` describes it."""
    import gemma_mlx
    from harness.backends.choice import load_model
    from harness.backends.gemma import GemmaBackend

    if type(checkpoint.config) is gemma_mlx.GemmaConfig:
        return GemmaBackend(request.getfixturevalue("gemma"))
    return or_exit(lambda: load_model(checkpoint))


@pytest.fixture(scope="session")
def baseline(artifact_plan: Plan, experiment: Experiment) -> SavedRun | None:
    """The run that `--artifact-compare` names, comparable with this one."""
    from harness.analysis.comparison import check_comparable

    found = artifact_plan.baseline
    if found is not None:
        or_exit(lambda: check_comparable(found, experiment.provenance, experiment.family))
    return found


@pytest.fixture(scope="session")
def activations(experiment: Experiment) -> RunStore:
    """The run's activations: from the store, or collected into it now."""
    return or_exit(lambda: experiment.activations)


@pytest.fixture(scope="session")
def results(artifact_plan: Plan, baseline: SavedRun | None, pytestconfig: pytest.Config) -> Results:
    """Results for the run's whole family, whatever is selected.

    `baseline` is here to be refused, if it can't be compared, before anything is collected.
    """
    session = session_of(pytestconfig)
    session.results = or_exit(lambda: artifact_plan.experiment.run(artifact_plan.criteria))
    return session.results


@pytest.fixture(scope="session")
def analysis(results: Results) -> Analysis:
    """The estimates by (layer, site), and the responses."""
    return results.analysis


@pytest.fixture(scope="session")
def version_comparison(
    results: Results, baseline: SavedRun | None, pytestconfig: pytest.Config
) -> VersionComparison | None:
    """This run against the baseline, if there is one."""
    from harness.results.baseline import compare_with

    if baseline is None:
        return None
    found = or_exit(lambda: compare_with(baseline, results))
    for warning in found.warnings:
        warnings.warn(printable(f"comparing with {baseline.name}: {warning}"), stacklevel=1)
    session_of(pytestconfig).add_results(comparison=found)
    return found


@pytest.fixture
def layer_comparison(
    layer_result: LayerResult, version_comparison: VersionComparison
) -> LayerComparison:
    """One layer at one site in the baseline and in this run."""
    return version_comparison.layers[layer_result.layer, layer_result.site]


@pytest.fixture(scope="session")
def interventions(
    artifact_plan: Plan,
    results: Results,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[LayerSite, tuple[Effect, Effect]]:
    """What adding and ablating each direction of the run's whole family does, whatever is
    selected; under pytest-xdist measured by one worker."""
    from harness.analysis.causality import causal_effects as measure_effects

    assert artifact_plan.causal is not None
    causal, experiment = artifact_plan.causal, artifact_plan.experiment

    def measure() -> Mapping[LayerSite, tuple[Effect, Effect]]:
        model = request.getfixturevalue("artifact_language_model")
        return or_exit(
            lambda: measure_effects(
                model,
                results.analysis.activations,
                experiment.activations.responses(),
                experiment.family,
                chat=experiment.chat,
                directions=causal.directions,
                level=experiment.settings.level,
                seed=experiment.settings.seed,
                progress=partial(experiment.bars, desc="intervening", unit="layer"),
            )
        )

    found = once(request.config, tmp_path_factory.getbasetemp(), "interventions", measure)
    session_of(request.config).add_results(interventions=found)
    return found


@pytest.fixture
def causal_effects(
    layer_result: LayerResult, interventions: Mapping[LayerSite, tuple[Effect, Effect]]
) -> tuple[Effect, Effect]:
    """What adding and ablating the direction of one layer at one site does."""
    return interventions[layer_result.layer, layer_result.site]


@pytest.fixture
def layer_result(request: pytest.FixtureRequest, analysis: Analysis) -> LayerResult:
    """One layer at one site; a test that takes it runs once for each of the run's family."""
    result = analysis[request.param]
    from harness.results.value import single_values

    figures = single_values(result.separation)
    request.node.user_properties += [(name, figures[name]) for name in sorted(PROPERTIES)]
    return result
