"""What a test run asks for: the plugin's options, checked as far as config.json allows."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import pytest

import gemma_mlx
from gemma_mlx import Positions
from gemma_mlx.errors import UserError
from harness import options
from harness.analysis.comparison import Version
from harness.data.activations import LayerSite
from harness.data.pairs import PairsError, PromptPairs, load_pairs
from harness.results.baseline import check_name, find_baseline, load_baseline
from harness.settings import AnalysisSettings, CollectSettings, Criteria

#: Input that can't be used; the message is for the person who gave it.
EXPECTED_ERRORS = (UserError,)


@dataclass(frozen=True)
class Plan:
    """What the options ask for, checked as far as the model's config.json allows."""

    model: str
    revision: str | None
    pairs: PromptPairs
    layers: tuple[int, ...]
    collection: CollectSettings
    analysis: AnalysisSettings
    criteria: Criteria
    companions: tuple[Positions, ...]
    base_model: str | None
    text_baselines: bool
    causal: bool
    save_as: str | None
    baseline: Version | None
    margin: float
    skip_inconclusive: bool
    store: Path
    recollect: bool
    columns: tuple[str, ...]
    sort: str

    @property
    def family(self) -> list[LayerSite]:
        return [(layer, site) for site in self.collection.sites for layer in self.layers]


def make_plan(config: options.Config, *, causal: bool = False, least_pairs: int = 8) -> Plan:
    """Read the options.

    Args:
        causal: whether interventions were asked for.
        least_pairs: how many pairs what is planned needs.

    Raises:
        pytest.UsageError, PairsError, CheckpointError: naming the option or file.
    """
    number = partial(options.number, config)
    sites = tuple(dict.fromkeys(options.read(config, "site")))
    for name in sites:
        if name not in gemma_mlx.SITES or name == "attn_pattern":
            known = ", ".join(s for s in gemma_mlx.SITES if s != "attn_pattern")
            raise pytest.UsageError(f"--site {name!r}: choose from {known}")
    positions = tuple(dict.fromkeys(options.read(config, "positions")))
    for name in positions:
        if name not in get_args(Positions):
            known = ", ".join(get_args(Positions))
            raise pytest.UsageError(f"--positions {name!r}: choose from {known}")
    pairs = load_pairs(options.read(config, "pairs"))
    if len(pairs) < least_pairs:
        raise PairsError(f"{pairs.source}: {len(pairs)} pairs; at least {least_pairs} are needed")
    model, revision = options.read(config, "model"), options.read(config, "revision")
    shape = gemma_mlx.find_checkpoint(model, revision=revision, config_only=True).config
    layers = options.parse_layers(options.read(config, "layers"), shape.num_hidden_layers)
    infinity = float("inf")
    save_as, compare = options.read(config, "save"), options.read(config, "compare")
    if save_as is not None:
        check_name(save_as)
    inconclusive = options.read(config, "inconclusive")
    if inconclusive not in ("fail", "skip"):
        raise pytest.UsageError(f"--artifact-inconclusive {inconclusive!r}: choose fail or skip")
    columns, sort = options.columns(config)
    return Plan(
        model=model,
        revision=revision,
        pairs=pairs,
        layers=layers,
        collection=CollectSettings(
            sites=sites,
            layers=layers,
            positions=positions[0],
            max_tokens=int(number("max_tokens", low=1, high=infinity, whole=True)),
            chat=not options.read(config, "no_chat"),
            tensor_parallel=int(number("tensor_parallel", low=1, high=infinity, whole=True)),
        ),
        analysis=analysis_settings(config),
        criteria=criteria(config),
        companions=positions[1:],
        base_model=options.read(config, "base_model"),
        text_baselines=options.read(config, "text_baselines"),
        causal=causal,
        save_as=save_as,
        baseline=None if compare is None else load_baseline(find_baseline(compare)),
        margin=number("margin", low=1e-9, high=infinity, whole=False),
        skip_inconclusive=inconclusive == "skip",
        store=Path(options.read(config, "store")),
        recollect=options.read(config, "recollect"),
        columns=columns,
        sort=sort,
    )


def analysis_settings(config: options.Config) -> AnalysisSettings:
    """How to estimate, as the options say."""
    infinity = float("inf")
    return AnalysisSettings(
        replicates=int(options.number(config, "replicates", low=100, high=infinity, whole=True)),
        seed=int(options.number(config, "stats_seed", low=0, high=infinity, whole=True)),
    )


def criteria(config: options.Config) -> Criteria:
    """What a layer has to meet, as the options say."""
    infinity = float("inf")
    return Criteria(
        d_threshold=options.number(
            config, "d_threshold", low=-infinity, high=infinity, whole=False
        ),
        alpha=options.number(config, "alpha", low=1e-9, high=0.5, whole=False),
    )
