"""What a check can ask for, from the options to the results; each is made once for a session."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from tqdm import tqdm

import gemma_mlx
from gemma_mlx import Checkpoint
from gemma_mlx.system.terminal import printable
from harness.analysis.causality import Effect
from harness.analysis.causality import causal_effects as measure_effects
from harness.analysis.comparison import (
    LayerComparison,
    Version,
    VersionComparison,
    check_comparable,
)
from harness.analysis.layers import Analysis, LayerResult, analyze
from harness.data.activations import LayerSite
from harness.data.pairs import PromptPairs
from harness.data.store import RunStore
from harness.experiment import Collection
from harness.results.baseline import compare_with
from harness.results.provenance import origin, provenance
from harness.settings import Criteria
from harness.testing.plan import Plan
from harness.testing.session import ANALYSIS, CAUSAL, COMPARISON, or_exit, plan_of


@pytest.fixture(scope="session")
def artifact_plan(pytestconfig: pytest.Config) -> Plan:
    """The options of this run."""
    plan = plan_of(pytestconfig)
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
    return or_exit(
        lambda: gemma_mlx.find_checkpoint(artifact_plan.model, revision=artifact_plan.revision)
    )


@pytest.fixture(scope="session")
def gemma(checkpoint: Checkpoint) -> gemma_mlx.Gemma:
    """The loaded model, for checks that need to run it."""
    return or_exit(lambda: gemma_mlx.load_checkpoint(checkpoint))


@pytest.fixture(scope="session")
def run_provenance(artifact_plan: Plan, checkpoint: Checkpoint) -> dict[str, Any]:
    """Model, pairs, settings, versions and machine of this run."""
    return or_exit(
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
        or_exit(lambda: check_comparable(found, run_provenance, artifact_plan.family))
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
    return or_exit(collection.collect)


@pytest.fixture(scope="session")
def companions(
    artifact_plan: Plan, collection: Collection, activations: RunStore
) -> dict[str, RunStore]:
    """The same prompts at other positions."""
    return or_exit(lambda: collection.companions(artifact_plan.companions))


@pytest.fixture(scope="session")
def base_activations(artifact_plan: Plan, collection: Collection) -> RunStore | None:
    """The base model's activations, if `--base-model` names one."""
    name = artifact_plan.base_model
    if name is None:
        return None
    return or_exit(
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
    found = or_exit(
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
    found = or_exit(lambda: compare_with(baseline, analysis, criteria, margin=artifact_plan.margin))
    for warning in found.warnings:
        warnings.warn(printable(f"comparing with {baseline.name}: {warning}"), stacklevel=1)
    pytestconfig.stash[COMPARISON] = found
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
    return pytestconfig.stash.setdefault(CAUSAL, {})


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
        causal_findings[key] = or_exit(
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
