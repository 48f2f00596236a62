"""The verdict in sentences, for page and terminal."""

import math
from collections.abc import Iterable

import numpy as np
from scipy.special import ndtri

from harness.analysis.claims import CLAIMS, Claim, Ladder
from harness.analysis.comparison import VersionComparison
from harness.analysis.controls import tells_apart
from harness.analysis.findings import Findings
from harness.analysis.judges import sample_size
from harness.analysis.layers import Analysis, layer_id
from harness.analysis.verdict import CLOSE, Verdict
from harness.analysis.words import counted, decimal, interval
from harness.stats import clearing_effect

# Layers that a sentence names before it says "…".
_MOST_NAMED = 8
_POWER = 0.8


def model_name(analysis: Analysis) -> str:
    """What was looked at, as it stands under every figure: the model as it was asked for, or the
    folder of activations, with the adapter, and how the fingerprint of both begins."""
    known = analysis.provenance
    parts = [known.get("model") or known.get("activations"), known.get("adapter")]
    named = " with ".join(str(part) for part in parts if part)
    named = named or "a model that isn't known"
    mark = str(known.get("model_fingerprint") or "")[:8]
    return f"{named} ({mark})" if mark else named


def same_words_sentence(found: Findings) -> str:
    """The largest d with the same words after both prompts; empty where there is none."""
    forced = [r.companions["forced"].d for r in found.values() if "forced" in r.companions]
    defined = [d for d in forced if not math.isnan(d)]
    if not defined:
        return ""
    return f" With the same words after both prompts, d is at most {decimal(max(defined))}."


def weakest_category_sentence(found: Findings) -> str:
    """The category with the smallest d along the direction of the others; empty without any."""
    every = [t for result in found.values() for t in result.transfer]
    if not every:
        return ""
    weakest = min(every, key=lambda t: -math.inf if math.isnan(t.d) else t.d)
    return (
        f" The weakest is {weakest.category} with d = {decimal(weakest.d)} "
        f"{interval(weakest.d_interval)}."
    )


def headline(found: Findings) -> str:
    """The run's verdict with its numbers: how many layers each claim holds in, and what follows."""
    total = len(found)
    ladders = [found.ladder(key) for key in found]
    what = "layer" if len({site for _, site in found}) == 1 else "layer and site"
    many = what if total == 1 else "layers" if what == "layer" else "layers and sites"
    separate = sum(each.holds("separates") for each in ladders)
    held = ", ".join(
        f"{sum(each.holds(claim) for each in ladders)} {words}"
        for claim, (_, words, _) in CLAIMS.items()
        if claim != "separates" and any(v and v.decidable for v in _of(ladders, claim))
    )
    shown = sum(each.outcome == "passed" for each in ladders)
    first = next(iter(found.values())).separation
    if shown or all(each.verdicts["beyond_base"] for each in ladders):
        verdict = f"An alignment artifact is shown in {shown} of {total}."
    elif separate:
        verdict = "Topic is not ruled out: no base model was asked."
    else:
        verdict = "No alignment artifact is shown."
    return (
        f"{separate} of {total} {many} separate{'s' if total == 1 else ''} "
        f"artifact from natural prompts beyond d = {found.criteria.d_threshold:g}; {held}. "
        f"{verdict} Held-out d {_span(found)}, {sample_size(first)}."
    )


def _span(found: Findings) -> str:
    defined = [r.separation.d for r in found.values() if not math.isnan(r.separation.d)]
    if not defined:
        return "is not defined"
    low, high = decimal(min(defined)), decimal(max(defined))
    return f"is {low}" if low == high else f"runs from {low} to {high}"


def _of(ladders: Iterable[Ladder], claim: Claim) -> list[Verdict | None]:
    return [each.verdicts[claim] for each in ladders]


def not_asked_sentence(found: Findings) -> str:
    """The claims that nothing was asked about, and those that can't be decided, with the reason;
    empty if there are none."""
    ladders = [found.ladder(key) for key in found]
    asked = {claim: [v for v in _of(ladders, claim) if v is not None] for claim in CLAIMS}
    missing = [CLAIMS[claim][1] for claim, verdicts in asked.items() if not verdicts]
    said = [f"Not asked: {', '.join(missing)}."] if missing else []
    for claim, verdicts in asked.items():
        if verdicts and not any(v.decidable for v in verdicts):
            _, _, reason = verdicts[0].explanation.partition(": ")
            said.append(f"Can't be decided: {CLAIMS[claim][1]}; {reason}.")
    return " ".join(said)


def behaviour_sentence(found: Findings) -> str:
    """How often each condition's responses evade; empty where nothing was written."""
    behaviour = found.analysis.behaviour
    if behaviour is None:
        return ""
    said = [
        f"{rate.evaded:.0%} of {condition} [{rate.interval[0]:.0%}, {rate.interval[1]:.0%}]"
        for condition in ("artifact", "natural")
        for rate in (behaviour.rate(condition),)
    ]
    return f"By their wording the responses evade in {' and '.join(said)} prompts."


def openings_sentence(found: Findings) -> str:
    """How likely the model is to begin with an evasion; empty where that wasn't asked."""
    odds = found.analysis.openings
    if odds is None:
        return ""
    low, high = odds.interval
    return (
        "Before anything is written, the log-odds of evasive against plain openings are "
        f"{odds.artifact:+.2f} after artifact and {odds.natural:+.2f} after natural prompts, "
        f"{odds.difference:+.2f} [{low:+.2f}, {high:+.2f}] nats apart."
    )


def text_sentence(found: Findings) -> str:
    """The strongest text baseline that is shown to be one: how far apart words or lengths alone
    lie."""
    texts = [t for t in found.analysis.text if not math.isnan(t.separation.d)]
    if not texts:
        return "No text tells the two conditions apart by its words or length."
    shown = [t for t in texts if tells_apart(t.separation, found.criteria.alpha)]
    most = max(shown or texts, key=lambda text: text.separation.d)
    figure = f"d = {decimal(most.separation.d)} {interval(most.separation.d_interval)}"
    if shown:
        return f"Without the model, {most.description} separates by {figure}."
    return (
        "Without the model, no text is shown to tell the conditions apart (at most "
        f"{figure}, by {most.description})."
    )


def power_sentence(found: Findings) -> str:
    """What this run could have seen, had it been there, and what clears the threshold of d.

    Both come from the run's own spread: the middle layer's under flipped labels, which a d of size
    x widens by x²/(4n), and the family's step back from the estimate.
    """
    every = [r.separation for r in found.values() if math.isfinite(r.separation.null_quantile_95)]
    if not every:
        return ""
    s = sorted(every, key=lambda s: s.null_quantile_95)[len(every) // 2]
    power, single = float(ndtri(_POWER)), float(ndtri(0.95))
    null = s.null_quantile_95 / single
    layers = s.effective_layers if math.isfinite(s.effective_layers) else len(found)
    told = (float(ndtri(1 - found.criteria.alpha / layers)) + power) * null
    reach = (s.d - s.d_lower) / s.d_se if s.d_se > 0 else single
    clears = clearing_effect(found.criteria.d_threshold, reach + power, null, s.n_units)
    return (
        f"With {sample_size(s)[4:]} and these layers, a d of {decimal(told)} or more is told from "
        f"0 in 4 runs of 5, and one of {decimal(max(clears, told))} or more clears the threshold."
    )


def close_sentence(found: Findings) -> str:
    """Which verdicts another seed could turn, in one sentence; empty if none."""
    close = [
        f"{layer_id(*key)} ({', '.join(names)})"
        for key in found
        if (names := [CLAIMS[c][0] for c, v in found.ladder(key).verdicts.items() if v and v.close])
    ]
    if not close:
        return ""
    shown = ", ".join(close[:_MOST_NAMED]) + (", …" if len(close) > _MOST_NAMED else "")
    return (
        f"Within {CLOSE} Monte Carlo errors of a threshold: {shown}. Another seed of the "
        "resampling could give another verdict there; more replicates settle it."
    )


def comparison_headline(compared: VersionComparison) -> str:
    """What changed from the baseline, in one sentence."""
    found = [layer.comparison for layer in compared.layers.values()]
    counts = [
        f"{sum(c.verdict == verdict for c in found)} {verdict}"
        for verdict in ("equivalent", "changed", "inconclusive")
    ]
    largest = max(found, key=lambda c: -1 if math.isnan(c.difference) else abs(c.difference))
    sets = "".join(
        f" {word}: {', '.join(ids)}."
        for word, ids in (("Separate now", compared.gained), ("Separate no more", compared.lost))
        if ids
    )
    return (
        f"Against {compared.a}, of {counted(len(found), 'layer')} {', '.join(counts)} within "
        f"±{compared.margin:g}; largest change of d {largest.difference:+.2f} "
        f"{interval(largest.interval)}.{_direction_sentence(compared)}{sets}"
        f"{_category_sentence(compared)}{_behaviour_change(compared)}{_chance_sentence(compared)}"
    )


def _behaviour_change(compared: VersionComparison) -> str:
    """How often artifact prompts are evaded, then and now."""
    for change in compared.behaviour:
        if change.condition == "artifact":
            low, high = change.interval
            return (
                f" Evaded artifact prompts went from {change.before:.0%} to {change.after:.0%}, "
                f"{change.difference:+.0%} [{low:+.0%}, {high:+.0%}]."
            )
    return ""


def _direction_sentence(compared: VersionComparison) -> str:
    """In how many of the layers that separated the direction is the same."""
    drifts = [layer.drift for layer in compared.layers.values() if layer.separated and layer.drift]
    if not drifts:
        return ""
    same = sum(drift.verdict == "same" for drift in drifts)
    return (
        f" The direction is the same in {same} of the {counted(len(drifts), 'layer')} that "
        f"separated (cosine above {drifts[0].least:g})."
    )


def _chance_sentence(compared: VersionComparison) -> str:
    """How likely an unchanged model is equivalent everywhere, and what another batching changes."""
    layers = list(compared.layers.values())
    (chance,) = {layer.comparison.unchanged_passes for layer in layers}
    noise = [layer.noise for layer in layers if layer.noise is not None]
    beside = (
        f" In other batches the same version's d differs by up to {max(noise):.2g}."
        if noise
        else ""
    )
    if math.isnan(chance):
        return beside
    return (
        " Had d not changed at all, two versions whose activations differ as much as these would "
        f"be called equivalent in all layers with probability {_probability(chance)}.{beside}"
    )


def noise_sentence(found: Findings) -> str:
    """What a second run of the same model says about later comparisons; empty without one."""
    repeated = [result.noise for result in found.values() if result.noise is not None]
    if not repeated:
        return ""
    largest = max(abs(change.difference) for change in repeated)
    return (
        f"In other batches d differs by up to {largest:.2g}: by that noise alone an unchanged "
        f"model passes a comparison within ±{repeated[0].margin:g} with probability "
        f"{_probability(repeated[0].unchanged_passes)}."
    )


def _probability(value: float) -> str:
    """Two decimals, of which no rounding makes never or always."""
    return "below 0.01" if value < 0.01 else "above 0.99" if value > 0.99 else f"{value:.2f}"


def _category_sentence(compared: VersionComparison) -> str:
    """The category that changed most, if there are several and anything changed."""
    if all(layer.comparison.verdict != "changed" for layer in compared.layers.values()):
        return ""
    mean = {
        category: float(np.mean(list(changes.values())))
        for category, changes in compared.categories.items()
        if changes
    }
    if len(mean) < 2:
        return ""
    most = max(mean, key=lambda category: abs(mean[category]))
    return f" Of the categories, {most} changed most: {mean[most]:+.2f} on average over layers."
