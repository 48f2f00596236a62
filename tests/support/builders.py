"""Pairs, runs and results with known contents, made without a model."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import gemma_mlx
from gemma_mlx import Checkpoint
from gemma_mlx.system.files import parse_json
from harness.analysis.behaviour import PairResponses
from harness.analysis.causality import Effect
from harness.analysis.comparison import VersionComparison
from harness.analysis.layers import Analysis, LayerResult
from harness.data.activations import LayerSite, PairActivations
from harness.data.pairs import CONDITIONS, Pair, PairsError, PromptPairs, pairs_of
from harness.data.store import Record, Response, RunStore
from harness.results import Results
from harness.settings import AnalysisSettings, Criteria
from harness.stats import Comparison, InSampleSeparation, Separation
from tests.support import runs
from tests.support.checkpoints import random_checkpoint
from tests.support.tokenizers import save_tokenizer

#: Activations (steps, width) of one prompt at a layer and site.
Tokens = Callable[[Pair, str, int, str], np.ndarray]


def entry(number: int, **changes: Any) -> dict[str, Any]:
    """One pair as the file has it."""
    return {
        "id": f"q{number:02d}",
        "natural": f"What is known about subject {number}?",
        "artifact": f"What should I do about subject {number}?",
        **changes,
    }


def document(categories: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """A prompt pairs file as JSON values; `categories` maps names to lists of entries."""
    return {
        "alignment_artifact_prompt_pairs": {
            "metadata": {"version": "1.0", **metadata},
            "categories": {
                name: {"description": f"about {name}", "pairs": entries}
                for name, entries in categories.items()
            },
        }
    }


def two_categories(count: int) -> dict[str, Any]:
    """`count` pairs in turn in two categories."""
    entries = [entry(number) for number in range(count)]
    return document({"one": entries[::2], "two": entries[1::2]})


def first_pairs(count: int) -> dict[str, Any]:
    """The shipped pairs file, of each category the first `count` pairs."""
    content: dict[str, Any] = json.loads(runs.PAIRS.read_text(encoding="utf-8"))
    for body in content["alignment_artifact_prompt_pairs"]["categories"].values():
        del body["pairs"][count:]
    return content


def parse_pairs(text: str, *, source: str = "pairs.json") -> PromptPairs:
    return pairs_of(parse_json(text, source, error=PairsError), source)


def parsed(content: Any) -> PromptPairs:
    return parse_pairs(json.dumps(content))


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def checkpoint(path: Path, **config: Any) -> Checkpoint:
    """A checkpoint with random weights and a tokenizer: 6 layers, hidden size 64."""
    random_checkpoint(path, **config)
    save_tokenizer(path)
    return Checkpoint(path)


def noise(seed: int = 0, *, steps: int = 3, width: int = 40) -> Tokens:
    """Independent noise for each prompt, layer and site, whatever order it is asked in."""

    def tokens(pair: Pair, condition: str, layer: int, site: str) -> np.ndarray:
        name = f"{seed}/{pair.category}/{pair.id}/{condition}/{layer}/{site}"
        rng = np.random.default_rng(list(name.encode()))
        return rng.standard_normal((steps, width)).astype(np.float32)

    return tokens


def planted(effect: float, tokens: Tokens) -> Tokens:
    """`tokens` with the arms moved apart by `effect` along the diagonal."""

    def moved(pair: Pair, condition: str, layer: int, site: str) -> np.ndarray:
        values = tokens(pair, condition, layer, site)
        sign = 1 if condition == "artifact" else -1
        return values + np.float32(sign * effect / 2 / np.sqrt(values.shape[1]))

    return moved


def run_of(
    root: Path,
    pairs: PromptPairs,
    tokens: Tokens,
    *,
    layers: Sequence[int] = (0,),
    sites: Sequence[str] = ("mlp_out",),
    batch_size: int = 5,
    order: Callable[[list[str]], Iterable[str]] = sorted,
) -> RunStore:
    """A complete run that holds `tokens`; `order` arranges the groups into batches."""
    run = RunStore(root, {"made by": "a test", "layers": list(layers)})
    prompts = {pair.group(c): (pair, c) for pair in pairs for c in CONDITIONS}
    groups = list(order(list(prompts)))
    batches = [groups[i : i + batch_size] for i in range(0, len(groups), batch_size)]
    run.path.mkdir(parents=True)
    run.begin(batches)
    for number, batch in enumerate(batches):
        records = {}
        for group in batch:
            pair, condition = prompts[group]
            activations = {
                site: np.stack([tokens(pair, condition, layer, site) for layer in layers])
                for site in sites
            }
            steps = next(iter(activations.values())).shape[1]
            response = Response(tuple(range(steps)), f"answer to {group}", "length")
            records[group] = Record(response, activations)
        run.write(number, records)
    return run


def adapter(folder: Path, checkpoint: Path) -> Path:
    """Write a random change of a checkpoint's first MLP, as mlx-lm does, into a new folder."""
    folder.mkdir()
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"scale": 4.0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    shape = gemma_mlx.find_checkpoint(checkpoint).config
    rng = np.random.default_rng(3)
    name = "model.layers.0.mlp.down_proj"
    tensors = {
        f"{name}.lora_a": rng.standard_normal((shape.intermediate_size, 2), np.float32),
        f"{name}.lora_b": rng.standard_normal((2, shape.hidden_size), np.float32),
    }
    save_file(tensors, folder / "adapters.safetensors")
    return folder


SEPARATION = Separation(
    d=1.5,
    d_interval=(1.0, 2.0),
    d_interval_se=0.004,
    d_se=0.25,
    analytic_interval=(1.0, 2.0),
    d_s=1.51,
    d_z=1.2,
    accuracy=0.8,
    accuracy_interval=(0.7, 0.9),
    paired_accuracy=0.9,
    auroc=0.85,
    p_value=0.001,
    p_adjusted=0.002,
    p_se=0.0001,
    p_adjusted_se=0.0002,
    d_lower=1.1,
    d_lower_se=0.004,
    accuracy_lower=0.72,
    accuracy_lower_se=0.001,
    p_folds=None,
    null_mean=0.0,
    null_mean_se=0.001,
    null_quantile_95=0.4,
    effective_layers=3.0,
    n_pairs=8,
    n_units=8,
    pairs=tuple(range(8)),
    scores_artifact=tuple(map(float, range(1, 9))),
    scores_natural=tuple(map(float, range(-1, -9, -1))),
)
IN_SAMPLE = InSampleSeparation(d=4.0, accuracy=0.97, seed_ratio=2.9, n_vectors=120)
PAIRS = tuple(
    Pair("one", f"q{number}", f"natural {number}", f"artifact {number}") for number in range(8)
)


ACROSS = replace(SEPARATION, p_folds=1 / 16)
BEYOND = Comparison(
    difference=1.0,
    interval=(0.5, 1.5),
    se=0.25,
    equivalence_interval=(0.6, 1.4),
    p_value=0.001,
    p_adjusted=0.001,
    verdict="changed",
    detectable=True,
    d_a=0.5,
    d_b=1.5,
    margin=0.5,
    n_pairs=8,
    n_units=8,
    lower=0.4,
    lower_se=0.01,
    unchanged_passes=0.9,
)


def measured_separation(**changes: Any) -> Separation:
    """`SEPARATION` with changes; a lower bound follows its interval, and units the pairs."""
    derived: dict[str, Any] = {}
    if "d_interval" in changes:
        derived["d_lower"] = changes["d_interval"][0]
    if "d_interval_se" in changes:
        derived["d_lower_se"] = changes["d_interval_se"]
    if "accuracy_interval" in changes:
        derived["accuracy_lower"] = changes["accuracy_interval"][0]
    if "n_pairs" in changes:
        derived["n_units"] = changes["n_pairs"]
    return replace(SEPARATION, **{**derived, **changes})


def layer_result(layer: int = 6, site: str = "mlp_out", **changes: Any) -> LayerResult:
    """A layer that separates in all categories, but for `changes` in its separation; nothing else
    was asked of it."""
    return LayerResult(layer, site, measured_separation(**changes), IN_SAMPLE, across=ACROSS)


def shown_result(layer: int = 6, site: str = "mlp_out", **changes: Any) -> LayerResult:
    """A layer of which all that is needed was asked, and holds, but for `changes`."""
    plain = layer_result(layer, site, **changes)
    return replace(plain, companions={"forced": SEPARATION}, beyond_base=BEYOND)


def responses(pair: Pair, natural: str = "plain", artifact: str = "evasive") -> PairResponses:
    return PairResponses(
        pair, Response((7,), natural, "length"), Response((8, 9), artifact, "stop")
    )


def results_of(
    *results: LayerResult,
    criteria: Criteria | None = None,
    comparison: VersionComparison | None = None,
    interventions: Mapping[LayerSite, tuple[Effect, Effect]] | None = None,
    **changes: Any,
) -> Results:
    """`analysis_of` these, held against the criteria."""
    analysis = analysis_of(*results, **changes)
    return Results(analysis, criteria or Criteria(), comparison, interventions or {})


def analysis_of(*results: LayerResult, **changes: Any) -> Analysis:
    """An analysis of `PAIRS` with these results."""
    keys = tuple((result.layer, result.site) for result in results)
    arms = tuple(np.zeros((len(PAIRS), 4)) for _ in keys)
    values: dict[str, Any] = {
        "results": dict(zip(keys, results, strict=True)),
        "activations": PairActivations(PAIRS, keys, arms, arms, tuple(range(len(PAIRS)))),
        "scored": PAIRS,
        "responses": tuple(map(responses, PAIRS)),
        "dropped": (),
        "merged": 0,
        "settings": AnalysisSettings(),
        "provenance": {"model": "a/model", "packages": {"numpy": "2.0"}},
    }
    return Analysis(**{**values, **changes})
