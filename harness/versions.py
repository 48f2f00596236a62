"""Two versions of a model on the same pairs: what changed, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.activations import LayerSite, PairActivations
from harness.analysis import compare_runs, layer_id
from harness.stats import Comparison, DirectionDrift, direction_drift
from harness.stats.kernels import Scale

# What has to be equal for two runs to be comparable, and how to say what it is.
_DECISIVE = {
    "pairs_fingerprint": "prompt pairs",
    "template_fingerprint": "chat template",
    "collection.positions": "--positions",
    "collection.max_tokens": "--max-tokens",
    "collection.sampling": "sampling settings",
    "collection.seed": "sampling seed",
    "collection.chat": "use of the chat template",
    "analysis.scale": "scaling of the statistics",
}
_CIRCUMSTANCES = ("packages", "python", "device", "machine", "blas", "collection.dtype")


class BaselineError(ValueError):
    """A baseline that isn't there, is damaged, or can't be compared; the message says which."""


@dataclass(frozen=True)
class Version:
    """One run: its token means, and its results as `harness.results` writes them."""

    path: Path
    activations: PairActivations
    results: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def provenance(self) -> Mapping[str, Any]:
        return self.results["provenance"]

    @property
    def layer_count(self) -> int:
        """Layers of the model, captured or not."""
        return int(self.provenance["model_layers"])

    def passed(self) -> frozenset[str]:
        """Ids of the layers that met every criterion when this run was made."""
        return frozenset(x["id"] for x in self.results["layers"] if x["verdict"] == "passed")


@dataclass(frozen=True)
class LayerComparison:
    """One layer at one site in two versions, `comparison` being d of B minus d of A.

    `drift` is the cosine between the versions' directions; None where their widths differ.
    """

    layer: int
    site: str
    comparison: Comparison
    drift: DirectionDrift | None

    @property
    def id(self) -> str:
        return layer_id(self.layer, self.site)


@dataclass(frozen=True)
class VersionComparison:
    """Two versions, layer by layer. `warnings` name circumstances that differ without making
    the runs incomparable; `gained` and `lost` the layers that pass in only one of them."""

    a: str
    b: str
    layers: Mapping[LayerSite, LayerComparison]
    margin: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    warnings: tuple[str, ...]


def compare_versions(
    a: Version, b: Version, *, margin: float, level: float = 0.95
) -> VersionComparison:
    """Compare two saved runs of the same pairs, at the layers and sites of `b`."""
    check_comparable(a, b.provenance)
    keys = b.activations.keys
    absent = [layer_id(*key) for key in keys if key not in a.activations.keys]
    if absent:
        raise BaselineError(f"{a.path}: has no {', '.join(absent)}")
    scale = _value(b.provenance, "analysis.scale")
    compared = compare_runs(a.activations, b.activations, margin=margin, level=level, scale=scale)
    drifts = _drifts(a.activations, b.activations, level, scale)
    passed_before, passed_now = a.passed(), b.passed()
    ids = {layer_id(*key) for key in keys}
    return VersionComparison(
        a=a.name,
        b=b.name,
        layers={
            key: LayerComparison(*key, comparison, drift)
            for key, comparison, drift in zip(keys, compared, drifts, strict=True)
        },
        margin=margin,
        gained=tuple(sorted((passed_now - passed_before) & ids)),
        lost=tuple(sorted((passed_before - passed_now) & ids)),
        warnings=tuple(
            f"{what}: {_value(a.provenance, what)} then, {_value(b.provenance, what)} now"
            for what in _CIRCUMSTANCES
            if _value(a.provenance, what) != _value(b.provenance, what)
        ),
    )


def check_comparable(a: Version, provenance: Mapping[str, Any]) -> None:
    """Raise `BaselineError` naming everything that makes a run incomparable with `a`."""
    values = {
        what: (_value(a.provenance, key), _value(provenance, key))
        for key, what in _DECISIVE.items()
    }
    different = [
        f"{what} ({_short(there)} there, {_short(here)} here)"
        for what, (there, here) in values.items()
        if there != here
    ]
    if different:
        raise BaselineError(f"{a.path}: can't be compared, different {'; '.join(different)}")


def _value(provenance: Mapping[str, Any], key: str) -> Any:
    """A value of the provenance; dots lead into nested objects."""
    value: Any = provenance
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _drifts(
    a: PairActivations, b: PairActivations, level: float, scale: Scale
) -> list[DirectionDrift | None]:
    common = [pair for pair in b.pairs if pair in set(a.pairs)]
    one, other = a.select(common, b.keys), b.select(common, b.keys)
    return [
        direction_drift(
            *(arm[i][None] for arm in (one.artifact, one.natural, other.artifact, other.natural)),
            scale=scale,
            level=level,
        )[0]
        if one.artifact[i].shape == other.artifact[i].shape
        else None
        for i in range(len(b.keys))
    ]
