"""What is run, once: a model, pairs, and how to collect and to estimate."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

from tokenizers import Tokenizer

import gemma_mlx
from gemma_mlx import ALONE, Checkpoint, CheckpointError, Positions, Ranks, RequestError
from gemma_mlx.config import GemmaConfig
from gemma_mlx.sites import OTHER_SITES, VECTOR_SITES
from harness import analysis, options
from harness.analysis import Analysis
from harness.asked import check_kind, check_known, check_layers, check_whole, layers_of, sites_of
from harness.backends.choice import find_checkpoint
from harness.collect import collect
from harness.data import embedded
from harness.data.activations import LayerSite
from harness.data.behaviours import Behaviours, load_behaviours
from harness.data.pairs import PairsError, PromptPairs, load_pairs
from harness.data.store import RunStore
from harness.openings import opening_log_odds
from harness.progress import ON_TERMINAL, Bars
from harness.results import Results
from harness.results.provenance import origin, provenance
from harness.settings import STORE, AnalysisSettings, Backend, CollectSettings, Criteria

#: As `base_model`: nothing to compare with, also where the model has an adapter.
NO_BASE = "none"


@dataclass(frozen=True)
class Experiment:
    """What is run. Nothing is read before it is needed, and each thing once.

    Attributes:
        model, revision: checkpoint folder, GGUF file, `owner/name` on the hub, or an embedded
            model's name.
        adapter: folder or hub repository of an adapter that was trained on the model, or an
            embedded adapter's name.
        backend: what computes the model and the one it is compared with: "gemma" or "mlx_lm"; by
            default the one for its architecture.
        chat_template: a Jinja file to use in place of the adapter's or the model's own.
        pairs: a prompt pairs file, or pairs that were loaded already.
        layers: all by default.
        sites, positions, max_tokens, chat, tensor_parallel, batch_size: how to collect, as in
            `CollectSettings`.
        companions: other positions to estimate the separation at, too; beside generated tokens
            always those that hold the words constant.
        base_model: what the model is compared with, on the same pairs and through the same chat
            template; "none" for nothing. By default the model without its adapter, where it has
            one, and what an embedded model was trained from.
        noise: collect a second time, in other batches, and compare: what of a change between
            versions is noise.
        behaviours: a file of patterns that say which responses evade.
        openings: measure, too, how likely the model is to begin with an evasion.
        settings: replicates, level, seed of the statistics.
        store: where activations are kept.
        recollect: collect anew what the store already has.
        bars: shows the progress of every part that takes long.
        given: the options that it was made from, if it was; messages name them as they were typed.

    Raises:
        gemma_mlx.RequestError: an argument that can't be used, which is named, when it is made; by
            its attributes and methods, also:
        gemma_mlx.CheckpointError, harness.data.pairs.PairsError, harness.data.store.StoreError,
        harness.data.activations.AnalysisError: model, pairs, store or activations can't be used.
    """

    model: str | os.PathLike[str] = embedded.MODEL
    pairs: str | os.PathLike[str] | PromptPairs = embedded.PAIRS
    revision: str | None = field(default=None, kw_only=True)
    adapter: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    backend: Backend | None = field(default=None, kw_only=True)
    chat_template: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    layers: Sequence[int] | None = field(default=None, kw_only=True)
    sites: Sequence[str] = field(default=CollectSettings.sites, kw_only=True)
    positions: Positions = field(default=CollectSettings.positions, kw_only=True)
    companions: Sequence[Positions] = field(default=(), kw_only=True)
    max_tokens: int = field(default=CollectSettings.max_tokens, kw_only=True)
    chat: bool = field(default=CollectSettings.chat, kw_only=True)
    tensor_parallel: int = field(default=CollectSettings.tensor_parallel, kw_only=True)
    batch_size: int | None = field(default=CollectSettings.batch_size, kw_only=True)
    base_model: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    noise: bool = field(default=False, kw_only=True)
    behaviours: str | os.PathLike[str] = field(default=embedded.BEHAVIOURS, kw_only=True)
    openings: bool = field(default=False, kw_only=True)
    settings: AnalysisSettings = field(default_factory=AnalysisSettings, kw_only=True)
    store: str | os.PathLike[str] = field(default=STORE, kw_only=True)
    recollect: bool = field(default=False, kw_only=True)
    bars: Bars = field(default=ON_TERMINAL, kw_only=True, repr=False, compare=False)
    given: options.Given | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_known("sites", self.sites, (*VECTOR_SITES, *OTHER_SITES))
        check_known("positions", [self.positions], get_args(Positions))
        check_known("companions", self.companions, get_args(Positions))
        check_whole("max_tokens", self.max_tokens)
        check_whole("tensor_parallel", self.tensor_parallel)
        if self.batch_size is not None:
            check_whole("batch_size", self.batch_size)
        check_kind("model", self.model, str, os.PathLike)
        check_kind("pairs", self.pairs, str, os.PathLike, PromptPairs)
        check_kind("settings", self.settings, AnalysisSettings)
        if self.layers is not None:
            check_layers(self.layers)

    @classmethod
    def from_options(cls, given: options.Given, *, least_pairs: int, **more: Any) -> "Experiment":
        """The experiment that a command line or a pytest configuration asks for.

        Pairs and the model's config.json are read, so that what is wrong with them is said at once.

        Raises:
            harness.options.OptionError: naming the option.
            harness.data.pairs.PairsError: also where there are fewer than `least_pairs`.
            gemma_mlx.CheckpointError: there is no such model.
        """
        positions, *companions = options.POSITIONS.read(given)
        experiment = cls(
            options.MODEL.read(given),
            options.PAIRS.read(given),
            revision=options.REVISION.read(given),
            adapter=options.ADAPTER.read(given),
            backend=options.BACKEND.read(given),
            chat_template=options.CHAT_TEMPLATE.read(given),
            layers=options.LAYERS.read(given),
            sites=options.SITE.read(given),
            positions=positions,
            companions=tuple(companions),
            max_tokens=options.MAX_TOKENS.read(given),
            chat=not options.NO_CHAT.read(given),
            tensor_parallel=options.TENSOR_PARALLEL.read(given),
            base_model=options.BASE_MODEL.read(given),
            noise=options.NOISE.read(given),
            behaviours=options.BEHAVIOURS.read(given),
            openings=options.OPENINGS.read(given),
            settings=options.analysis_settings(given),
            store=options.STORE_FOLDER.read(given),
            recollect=options.RECOLLECT.read(given),
            given=given,
            **more,
        )
        pairs = experiment.prompt_pairs
        if len(pairs) < least_pairs:
            raise PairsError(
                f"{pairs.source}: {len(pairs)} pairs; at least {least_pairs} are needed"
            )
        _ = experiment.behaviour_patterns
        shape, model = experiment._shape, experiment.model
        for option, read in (
            (options.LAYERS, partial(layers_of, shape, experiment.layers, model)),
            (options.SITE, partial(sites_of, shape, experiment.sites, model)),
        ):
            try:
                read()
            except RequestError as error:
                raise option.error(given, error) from None
        return experiment

    @cached_property
    def prompt_pairs(self) -> PromptPairs:
        """The pairs, loaded."""
        return self.pairs if isinstance(self.pairs, PromptPairs) else load_pairs(self.pairs)

    @cached_property
    def behaviour_patterns(self) -> Behaviours:
        """The patterns, loaded."""
        return load_behaviours(self.behaviours)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's files, fetched if they lie on the hub; nothing of them is loaded."""
        return self._find(self.model, self.adapter)

    @property
    def words_differ(self) -> bool:
        """Whether the tokens that are looked at may be others in each condition, so that the same
        words are read after both prompts, too."""
        return self.positions == "generated"

    @property
    def base(self) -> str | os.PathLike[str] | None:
        """The model that this one is compared with, if any."""
        if self.base_model is None:
            name = os.fspath(self.model)
            known = embedded.BASES.get(name) if embedded.locate(name) != name else None
            return known if self.adapter is None else self.model
        return None if self.base_model == NO_BASE else self.base_model

    @cached_property
    def base_checkpoint(self) -> Checkpoint | None:
        """Its files, with this model's chat template."""
        if self.base is None:
            return None
        return replace(self._find(self.base), given_template=self.checkpoint.chat_template)

    def _find(
        self,
        model: str | os.PathLike[str],
        adapter: str | os.PathLike[str] | None = None,
        *,
        config_only: bool = False,
    ) -> Checkpoint:
        try:
            return find_checkpoint(
                embedded.locate(model),
                revision=self.revision if model == self.model else None,
                adapter=None if adapter is None else embedded.locate(adapter),
                chat_template=self.chat_template,
                config_only=config_only,
                backend=self.backend,
            )
        except CheckpointError as error:
            name = os.fspath(model)
            if Path(name).name != name or os.path.lexists(name):
                raise
            raise CheckpointError(
                f"{error}; the embedded models are {', '.join(embedded.MODELS)}"
            ) from None

    @cached_property
    def collection(self) -> CollectSettings:
        """How to collect; needs no more of the model than its config.json.

        Raises:
            gemma_mlx.RequestError: a layer that the model hasn't, or a site, if it is a Gemma.
        """
        return CollectSettings(
            sites=sites_of(self._shape, self.sites, self.model),
            layers=layers_of(self._shape, self.layers, self.model),
            positions=self.positions,
            max_tokens=self.max_tokens,
            batch_size=self.batch_size,
            chat=self.chat,
            tensor_parallel=self.tensor_parallel,
        )

    @cached_property
    def _shape(self) -> GemmaConfig:
        return self._find(self.model, config_only=True).config

    @property
    def family(self) -> list[LayerSite]:
        """Every (layer, site) that is looked at, which the corrected p-values are about."""
        return [(layer, site) for site in self.collection.sites for layer in self.collection.layers]

    def collect(
        self,
        positions: Positions | None = None,
        *,
        batch_size: int | None = None,
        checkpoint: Checkpoint | None = None,
        whose: str = "",
        ranks: Ranks = ALONE,
    ) -> RunStore:
        """The run at these positions and in batches of this size, by default the experiment's own,
        with its model or with `checkpoint`; see `harness.collect`."""
        settings = replace(
            self.collection,
            positions=positions or self.positions,
            batch_size=batch_size or self.batch_size,
        )
        if settings.positions == "prompt_last":
            # The prompt alone is read: nothing need be written after it.
            settings = replace(settings, max_tokens=0)
        checkpoint = checkpoint or self.checkpoint
        if self.chat and checkpoint.chat_template is None:
            template, off = "chat_template=", "chat=False"
            if self.given is not None:
                template = f"{self.given.spelling(options.CHAT_TEMPLATE)} "
                off = self.given.spelling(options.NO_CHAT)
            raise gemma_mlx.CheckpointError(
                f"{checkpoint.path}: no chat template; give one with {template}FILE, or turn it "
                f"off with {off}, as base models want"
            )
        return collect(
            checkpoint,
            self.prompt_pairs,
            settings,
            Path(self.store),
            again=self.recollect,
            name=self._named(checkpoint),
            bars=self.bars,
            whose=whose,
            writer=None if checkpoint is self.checkpoint else self.checkpoint,
            ranks=ranks,
        )

    def _named(self, checkpoint: Checkpoint) -> str:
        """What a checkpoint of ours was asked for as."""
        if checkpoint is self.checkpoint:
            adapter = "" if self.adapter is None else f" with {os.fspath(self.adapter)}"
            return f"{os.fspath(self.model)}{adapter}"
        return "" if self.base is None else os.fspath(self.base)

    @cached_property
    def activations(self) -> RunStore:
        """The run's activations: from the store, or collected into it now."""
        return self.collect()

    @cached_property
    def beside(self) -> dict[str, RunStore]:
        """The same prompts at other positions, by their name."""
        names = list(self.companions)
        if self.words_differ:
            names += [name for name in ("forced", "prompt_last") if name not in names]
        return {name: self.collect(name) for name in names}

    @cached_property
    def base_activations(self) -> RunStore | None:
        """The same collection from the base model, if there is one."""
        return self.collect_base()

    @cached_property
    def base_same_words(self) -> RunStore | None:
        """What the base model, if there is one, makes of this model's answers, where each writes
        its own otherwise."""
        return self.collect_base("forced") if self.words_differ else None

    def collect_base(
        self, positions: Positions | None = None, *, ranks: Ranks = ALONE
    ) -> RunStore | None:
        """As `collect`, from the base model; None if there is none. At positions "forced" it reads
        what this model answered."""
        if self.base_checkpoint is None:
            return None
        layers_of(self.base_checkpoint.config, self.collection.layers, self.base)
        return self.collect(
            positions,
            checkpoint=self.base_checkpoint,
            whose=f"base model {Path(self.base or '').name}",
            ranks=ranks,
        )

    @cached_property
    def noise_activations(self) -> RunStore | None:
        """The same collection once more, in smaller batches, if it was asked for.

        At least nine tenths of the prompts are in another batch then, about half as large, unless
        they were alone in theirs, of which a `UserWarning` tells.
        """
        if not self.noise:
            return None
        plan = self.activations.plan() or []
        # Prompts of mlx-lm's models are in batches of very different sizes.
        sizes = sorted(len(batch) for batch in plan for _ in batch)
        size = sizes[len(sizes) // 10]
        if size == 1:
            warnings.warn(
                f"{sizes.count(1)} of {len(sizes)} prompts are alone in their batch, and show no "
                "noise in a second one",
                stacklevel=2,
            )
        smaller = max(1, min(size - 1, size // 2 + 1))
        return self.collect(batch_size=smaller, whose="again, for the noise")

    @cached_property
    def opening_log_odds(self) -> dict[str, float] | None:
        """Of evasive openings against plain ones, nats, by group, if that was asked."""
        if not self.openings:
            return None
        return opening_log_odds(
            self.checkpoint,
            self.prompt_pairs.prompts(),
            self.behaviour_patterns,
            Path(self.store),
            chat=self.chat,
            again=self.recollect,
            progress=partial(self.bars, desc="reading openings", unit="prompt"),
        )

    @cached_property
    def _decode(self) -> Callable[[int], str] | None:
        """The text of a token id; None where the checkpoint has no tokenizer."""
        if not self.checkpoint.has_tokenizer:
            return None
        file = self.checkpoint.path / "tokenizer.json"
        if file.exists():
            # Where the model isn't loaded, transformers needn't be either, which takes seconds.
            tokenizer = Tokenizer.from_file(str(file))
        else:
            tokenizer = self.checkpoint.read_tokenizer()
        return lambda token: str(tokenizer.decode([token], skip_special_tokens=False))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Models, pairs, settings, versions and machine, as JSON values."""
        base = self.base_checkpoint
        return {
            **provenance(
                self.model,
                self.revision,
                self.adapter,
                self.checkpoint,
                self.prompt_pairs,
                self.collection,
                self.settings,
            ),
            "base_model": None if self.base is None else str(self.base),
            "base_fingerprint": base and base.fingerprint,
            "behaviours": str(self.behaviours),
            "behaviours_fingerprint": self.behaviour_patterns.fingerprint,
        }

    def analyze(
        self, *, progress: Callable[[Iterable[int]], Iterable[int]] | None = None
    ) -> Analysis:
        """Collect what the store lacks, and estimate the separation in the whole family.

        Args:
            progress: wraps the iteration over layers and sites, by default with one of `bars`.
        """
        run = self.activations
        return analysis.analyze(
            run,
            self.prompt_pairs,
            layers=self.collection.layers,
            sites=self.collection.sites,
            settings=self.settings,
            companions=self.beside,
            base=self.base_activations,
            base_same_words=self.base_same_words,
            noise=self.noise_activations,
            behaviours=self.behaviour_patterns,
            openings=self.opening_log_odds,
            decode=self._decode,
            provenance={**self.provenance, **origin(run)},
            progress=progress or partial(self.bars, desc="resampling", unit="layer"),
        )

    def run(
        self,
        criteria: Criteria | None = None,
        *,
        progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    ) -> Results:
        """`analyze`, held against the criteria."""
        return Results(self.analyze(progress=progress), criteria or Criteria())


def analyze(
    model: str | os.PathLike[str] = embedded.MODEL,
    pairs: str | os.PathLike[str] | PromptPairs = embedded.PAIRS,
    *,
    criteria: Criteria | None = None,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
    **more: Any,
) -> Results:
    """Collect a model's activations, or take them from the store, and estimate the separation.

    The short way to `Experiment(model, pairs, …).run(criteria)`, and the same as
    `pytest artifact_checks` with the options of these names, without the checks.

    Args:
        more: what else an `Experiment` takes.

    Raises:
        gemma_mlx.errors.UserError: as `Experiment`.
    """
    return Experiment(model, pairs, **more).run(criteria, progress=progress)
