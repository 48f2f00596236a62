"""The gate of a release: what is said of a version against an earlier one.

What may be said of one version by itself is in `harness.analysis.verdict`.
"""

from harness.analysis.comparison import LayerComparison, VersionComparison
from harness.analysis.verdict import Outcome, Verdict, worst
from harness.analysis.words import counted, decimal, interval, p_value
from harness.settings import Criteria

_MOST_NAMED = 8


def unchanged(compared: LayerComparison) -> Verdict:
    """Passed if d is equivalent to the baseline's: its change lies within the margin."""
    change = compared.comparison
    found = (
        f"layer {compared.layer}, {compared.site}: d went from {decimal(change.d_a)} to "
        f"{decimal(change.d_b)}, a change of {change.difference:+.2f} {interval(change.interval)}"
    )
    if compared.drift is not None:
        found += f", direction cosine {decimal(compared.drift.cosine)}"
    if compared.noise is not None:
        found += f"; in other batches the same version's differs by {compared.noise:.2g}"
    pairs = f" (n = {change.n_pairs} pairs)"
    if change.verdict == "equivalent":
        within = "detectable, but within" if change.detectable else "within"
        return Verdict("passed", f"{found}: {within} ±{change.margin:g}{pairs}")
    if change.verdict == "changed":
        how = "stronger" if change.difference > 0 else "weaker"
        return Verdict(
            "failed",
            f"{found}: the separation is {how} than in the baseline, p over all layers "
            f"{p_value(change.p_adjusted)}{pairs}",
            figure=("change of d", change.difference),
            missed=f"changed, not within ±{change.margin:g}",
        )
    return Verdict(
        "inconclusive",
        f"{found}: neither within ±{change.margin:g} nor shown to have changed, p over all layers "
        f"{p_value(change.p_adjusted)}; more pairs, or a wider --artifact-margin if that is what "
        f"matters, would decide it{pairs}",
        figure=("change of d", change.difference),
        missed=f"not shown to be within ±{change.margin:g}",
    )


def same_direction(compared: LayerComparison) -> Verdict:
    """Passed if the baseline's direction is this run's: their cosine is large enough."""
    drift = compared.drift
    where = f"layer {compared.layer}, {compared.site}"
    if drift is None:
        return Verdict(
            "inconclusive",
            f"{where}: the versions' widths differ, their directions can't be compared",
        )
    found = (
        f"{where}: the cosine between the baseline's direction and this run's is "
        f"{decimal(drift.cosine)} {interval(drift.interval)}"
    )
    if drift.verdict == "same":
        return Verdict("passed", f"{found}: above {drift.least:g}")
    if drift.verdict == "turned":
        return Verdict(
            "failed",
            f"{found}: below {drift.least:g}, p over all layers {p_value(drift.p_turned)}: another "
            "direction separates than in the baseline, whatever its d",
            figure=("cosine", drift.cosine),
            missed=f"below {drift.least:g}",
        )
    return Verdict(
        "inconclusive",
        f"{found}: not shown to lie on either side of {drift.least:g}",
        figure=("cosine", drift.cosine),
        missed=f"not shown to be above {drift.least:g}",
    )


def covers_baseline(compared: VersionComparison, criteria: Criteria) -> Verdict:
    """Passed if all layers and sites of the baseline were compared, or need not be."""
    if not compared.absent:
        return Verdict("passed", f"all layers of {compared.a} are compared")
    shown = ", ".join(compared.absent[:_MOST_NAMED])
    more = ", …" if len(compared.absent) > _MOST_NAMED else ""
    many = counted(len(compared.absent), "layer and site", "layers and sites")
    found = f"{compared.a} has {many} that this run doesn't look at: {shown}{more}"
    if criteria.partial:
        return Verdict("passed", f"{found}; that is meant so, by --artifact-partial")
    return Verdict(
        "failed", f"{found}. Look at all of them, or say that it is meant so: --artifact-partial"
    )


def gate(compared: VersionComparison, criteria: Criteria) -> Outcome:
    """The worst outcome of all checks against a baseline: what a release is gated on."""
    outcomes = [covers_baseline(compared, criteria).outcome]
    for layer in compared.layers.values():
        outcomes.append(unchanged(layer).outcome)
        if layer.separated:
            outcomes.append(same_direction(layer).outcome)
    return worst(outcomes)
