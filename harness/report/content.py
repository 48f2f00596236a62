"""What the page's scripts draw, as JSON: one entry per layer, and the pairs with their tokens.

Bounded, so that the page stays one that opens at once: the pairs that matter with their texts, and
evenly spaced ones where a figure has a dot for each. All of them are in the files beside the page.
"""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.analysis.behaviour import PairResponses
from harness.analysis.claims import CLAIMS, said
from harness.analysis.findings import Findings
from harness.analysis.layers import LayerResult, layer_id
from harness.analysis.tokens import TokenScores
from harness.data.activations import LayerSite
from harness.data.pairs import CONDITIONS
from harness.data.store import FORCED
from harness.report.checks import CHECKS, words
from harness.report.plots import standardized_scores

#: Pairs whose texts are in the page, and how many have a dot in a figure.
MOST_PAIRS = 100
MOST_DOTS = 400
#: Said of a text that the model was given, in place of how it evades.
READ = "read, not written"
# Scores of single tokens, over all layers: two bytes each.
_MOST_TOKENS = 500_000
# Tokens that a browser shows at once without a pause.
_MOST_SPANS = 20_000
# Digits that a picture can show.
_DIGITS = 4


def as_script(content: Any) -> str:
    """JSON that can stand inside a script element, whatever the texts in it say."""
    text = json.dumps(_rounded(content), separators=(",", ":"), allow_nan=False)
    return text.translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"})


def page_content(found: Findings) -> dict[str, Any]:
    """The page's data; texts in it are as they were written by model and users."""
    analysis = found.analysis
    shown = worst_first(found)[:MOST_PAIRS]
    chosen = _evenly(len(analysis.scored), MOST_DOTS)
    results = list(found.values())
    content = {
        "level": analysis.settings.level,
        "threshold": found.criteria.d_threshold,
        "alpha": found.criteria.alpha,
        "null": _null(results),
        "positions": analysis.provenance.get("collection", {}).get("positions", "this run"),
        "layers": [_layer(found, key, chosen) for key in found],
        "dots": [str(analysis.scored[i]) for i in chosen],
        "scored": len(analysis.scored),
        "pairs": _pairs(found, shown),
        "tokens": _tokens(found, [r for r, _ in shown]),
    }
    if found.comparison is not None:
        compared = found.comparison
        content["comparison"] = {
            "margin": compared.margin,
            "a": compared.a,
            "layers": {
                layer_id(*key): {
                    "change": [layer.comparison.difference, *layer.comparison.interval],
                    "verdict": layer.comparison.verdict,
                }
                for key, layer in compared.layers.items()
            },
            "categories": compared.categories,
        }
    return content


def worst_first(found: Findings) -> list[tuple[PairResponses, float | None]]:
    """Responses with how far their pair is separated: the held-out score difference in standard
    deviations, averaged over layers and sites; pairs that weren't scored come last, with None."""
    scores = map(standardized_scores, found.values())
    gaps = [artifact - natural for natural, artifact in scores]
    mean = dict(zip(found.analysis.scored, np.mean(gaps, axis=0).tolist(), strict=True))
    ordered = sorted(found.analysis.responses, key=lambda r: mean.get(r.pair, math.inf))
    return [(response, mean.get(response.pair)) for response in ordered]


def _layer(found: Findings, key: LayerSite, chosen: np.ndarray) -> dict[str, Any]:
    result, s = found[key], found[key].separation
    natural, artifact = standardized_scores(result)
    claims = found.ladder(key).verdicts
    return {
        "id": result.id,
        "layer": result.layer,
        "site": result.site,
        "d": [s.d, *s.d_interval],
        "accuracy": [s.accuracy, *s.accuracy_interval],
        "lower": [s.d_lower, s.accuracy_lower],
        "p": s.p_adjusted,
        "in_sample": [result.in_sample.d, result.in_sample.accuracy],
        "separates": found.ladder(key).holds("separates"),
        "claims": [
            [words if claim != "separates" else "", said(claim, v.outcome if v else None)]
            for (claim, v), (_, words, _) in zip(claims.items(), CLAIMS.values(), strict=True)
        ],
        "checks": [
            [check.name, words(verdict), verdict.explanation]
            for check in CHECKS
            if (verdict := check.judge(found, key)) is not None
        ],
        "companions": {name: [c.d, *c.d_interval] for name, c in result.companions.items()},
        "follows": result.follows
        and {
            "auroc": [result.follows.auroc, result.follows.lower],
            "evaded": result.follows.scores_evaded,
            "answered": result.follows.scores_answered,
            "holds": found.ladder(key).holds("follows_behaviour"),
        },
        "categories": [[str(t.category), t.d, *t.d_interval, t.n_pairs] for t in result.transfer],
        "steps": [[t.step, t.d, t.p_adjusted, t.null_quantile_95] for t in result.steps],
        "natural": natural[chosen].tolist(),
        "artifact": artifact[chosen].tolist(),
    }


def _pairs(
    found: Findings, shown: Sequence[tuple[PairResponses, float | None]]
) -> list[dict[str, Any]]:
    kinds = found.analysis.behaviour.kinds if found.analysis.behaviour else {}
    place = {pair: number for number, pair in enumerate(found.analysis.scored)}
    gaps = [np.subtract(*standardized_scores(result)[::-1]) for result in found.values()]
    return [
        {
            "category": response.pair.category,
            "id": response.pair.id,
            "prompts": [response.pair.prompt(c) for c in CONDITIONS],
            "texts": [getattr(response, c).text for c in CONDITIONS],
            "kinds": [
                READ
                if getattr(response, c).finish_reason == FORCED
                else kinds.get(response.pair.group(c))
                for c in CONDITIONS
            ],
            "mean": mean,
            "gaps": [gap[place[response.pair]] for gap in gaps] if mean is not None else None,
        }
        for response, mean in shown
    ]


def _tokens(found: Findings, shown: Sequence[PairResponses]) -> dict[str, Any] | None:
    """The pairs' tokens, as many pairs as there is room for: texts as indices into a vocabulary,
    scores as 16-bit integers, in standard deviations of the layer's prompts, times a unit."""
    tokens = found.analysis.tokens
    if tokens is None:
        return None
    place = {pair: number for number, pair in enumerate(tokens.pairs)}
    room = min(_MOST_TOKENS // len(found), _MOST_SPANS)
    rows: list[np.ndarray] = []
    lengths: list[list[int] | None] = []
    for response in shown:
        number = place.get(response.pair)
        size = None if number is None else int(tokens.lengths[number].sum())
        if number is None or size is None or size > room:
            lengths.append(None)
            continue
        room -= size
        end = int(tokens.ends[number, 1])
        rows.append(np.arange(end - size, end))
        lengths.append(tokens.lengths[number].tolist())
    if not rows:
        return None
    chosen = np.concatenate(rows)
    texts = [tokens.texts[i] for i in chosen]
    vocabulary = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return {
        "lengths": lengths,
        "vocabulary": list(vocabulary),
        "texts": [vocabulary[text] for text in texts],
        "scores": [_packed(found[key], tokens, key, chosen) for key in found],
    }


def _packed(
    result: LayerResult, tokens: TokenScores, key: LayerSite, chosen: np.ndarray
) -> list[Any]:
    """A layer's scores: their unit, the largest that colours tell apart, packed integers."""
    s = result.separation
    spread = math.sqrt((np.var(s.scores_natural, ddof=1) + np.var(s.scores_artifact, ddof=1)) / 2)
    scores = tokens.scores[key][chosen].astype(float) / (spread if spread > 0 else math.inf)
    largest = float(np.abs(scores).max(initial=0.0))
    unit = largest / 32767 if largest > 0 else 1.0
    packed = base64.b64encode(np.round(scores / unit).astype("<i2").tobytes()).decode()
    return [unit, float(np.quantile(np.abs(scores), 0.95)), packed]


def _null(results: Sequence[LayerResult]) -> float | None:
    """The largest 95% quantile of d under shuffled labels, if there is one."""
    found = [result.separation.null_quantile_95 for result in results]
    return max(found) if np.isfinite(found).all() else None


def _evenly(count: int, most: int) -> np.ndarray:
    """Indices of at most so many of `count` things, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _rounded(value: Any) -> Any:
    """JSON values of as many digits as a picture can show; what isn't finite is null."""
    if isinstance(value, dict):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
