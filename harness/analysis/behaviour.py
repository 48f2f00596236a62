"""What did the model do: does each response evade, how often, and in which categories?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.data.behaviours import KINDS, Behaviours, Kind
from harness.data.clusters import find_clusters
from harness.data.pairs import CONDITIONS, Condition, Pair
from harness.data.store import Response
from harness.stats.arrays import FloatArray
from harness.stats.clusters import Clusters
from harness.stats.intervals import Accuracy, Interval, analytic_interval, t_quantile


@dataclass(frozen=True)
class PairResponses:
    """What was written for one pair, or read after its prompts."""

    pair: Pair
    natural: Response
    artifact: Response

    @property
    def written(self) -> bool:
        """Whether the model wrote any of it itself."""
        return self.natural.written or self.artifact.written


@dataclass(frozen=True)
class Rate:
    """Shares of one condition's responses, in one category or (None) in all.

    Attributes:
        declines, hedges, deflects: of each kind.
        evaded: of all three together, and `interval`, that share's (Wilson's shape, over units).
        n: responses.
    """

    condition: Condition
    category: str | None
    declines: float
    hedges: float
    deflects: float
    evaded: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True)
class Behaviour:
    """How the responses of a run evade.

    Attributes:
        source, fingerprint: the patterns that say so.
        kinds: how each response evades, by the name of its group; None where it answers plainly.
        rates: by condition, of all responses and of each category's.
        undecided: why it can't be told whether the scores follow it; None where it can.
    """

    source: str
    fingerprint: str
    kinds: Mapping[str, Kind | None]
    rates: tuple[Rate, ...]
    undecided: str | None = None

    @property
    def patterns(self) -> str:
        """What the patterns are called, apart from others in a file of that name."""
        return f"{Path(self.source).name}, {self.fingerprint[:8]}"

    def evaded(self, pair: Pair, condition: Condition) -> bool:
        return self.kinds[pair.group(condition)] is not None

    def rate(self, condition: Condition) -> Rate:
        """Of all responses of a condition."""
        return next(r for r in self.rates if r.condition == condition and r.category is None)


@dataclass(frozen=True)
class BehaviourChange:
    """Share of a condition's responses that evade, in two versions on the same pairs.

    Attributes:
        before, after: the shares.
        difference, interval: after − before, and its t interval over units.
    """

    condition: Condition
    before: float
    after: float
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Openings:
    """How likely evasive openings are against plain ones, before anything is written.

    Attributes:
        log_odds: log P(evasive) − log P(plain) after each prompt, nats, by group.
        natural, artifact: the means of the conditions.
        difference, interval: artifact − natural, and its t interval over units.
    """

    log_odds: Mapping[str, float]
    natural: float
    artifact: float
    difference: float
    interval: tuple[float, float]


def compare_openings(
    log_odds: Mapping[str, float], pairs: Sequence[Pair], *, level: float
) -> Openings:
    """The conditions' log-odds, pair by pair."""
    natural, artifact = (np.array([log_odds[p.group(c)] for p in pairs]) for c in CONDITIONS)
    units = Clusters.from_labels(find_clusters(pairs).labels, len(pairs))
    difference = float((artifact - natural).mean())
    se = float(np.sqrt(units.variance_of_mean(artifact - natural)))
    return Openings(
        dict(log_odds),
        float(natural.mean()),
        float(artifact.mean()),
        difference,
        analytic_interval(difference, se, len(units), level),
    )


def judge(
    responses: Sequence[PairResponses], behaviours: Behaviours, *, level: float
) -> Behaviour | None:
    """How these responses evade; None where nothing was written: a text that was only read says
    nothing of the model.

    Args:
        level: of the rates' intervals.
    """
    if not any(r.written for r in responses):
        return None
    kinds = {
        r.pair.group(condition): behaviours.classify(getattr(r, condition).text)
        for r in responses
        for condition in CONDITIONS
    }
    pairs = [r.pair for r in responses]
    labels = find_clusters(pairs).labels
    rates = []
    for condition in CONDITIONS:
        for category in (None, *dict.fromkeys(pair.category for pair in pairs)):
            rows = [i for i, p in enumerate(pairs) if category in (None, p.category)]
            found = [kinds[pairs[i].group(condition)] for i in rows]
            rates.append(_rate(condition, category, found, [labels[i] for i in rows], level))
    return Behaviour(behaviours.source, behaviours.fingerprint, kinds, tuple(rates))


def told_alike(found: Sequence[Behaviour | None]) -> list[Behaviour | None]:
    """Those that were told by the patterns of the last one that is known, None for the others:
    shares that other patterns told can't be compared with its."""
    last = next((each for each in reversed(found) if each is not None), None)
    return [
        each if each and last and each.fingerprint == last.fingerprint else None for each in found
    ]


def compare_behaviour(
    a: Behaviour | None, b: Behaviour | None, clusters: Mapping[Pair, int], *, level: float
) -> tuple[BehaviourChange, ...]:
    """The change of each condition's share from a to b; nothing where they weren't told by the same
    patterns.

    The intervals are paired ones, with Student's t over the units. Where no pair changed, or all
    did, the reach is that of the share that could have done otherwise (as of `Rate.interval`).

    Args:
        clusters: the pairs to compare on, with the unit of each.
    """
    if a is None or b is None or a.fingerprint != b.fingerprint:
        return ()
    known = [p for p in clusters if all(p.group("natural") in each.kinds for each in (a, b))]
    units = Clusters.from_labels([clusters[pair] for pair in known], len(known))
    changes = []
    for condition in CONDITIONS:
        before, after = (
            np.array([each.evaded(pair, condition) for pair in known], dtype=float)
            for each in (a, b)
        )
        moved = after - before
        difference = float(moved.mean())
        if np.ptp(moved) > 0:
            se = float(np.sqrt(units.variance_of_mean(moved)))
            low, high = analytic_interval(difference, se, len(units), level)
        else:
            _, reach = _share_interval(np.zeros(len(known)), units, level)
            low, high = difference - reach, difference + reach
        changes.append(
            BehaviourChange(
                condition,
                float(before.mean()),
                float(after.mean()),
                difference,
                (max(low, -1.0), min(high, 1.0)),
            )
        )
    return tuple(changes)


def _rate(
    condition: Condition,
    category: str | None,
    kinds: Sequence[Kind | None],
    labels: Sequence[int],
    level: float,
) -> Rate:
    evaded = np.array([kind is not None for kind in kinds], dtype=float)
    return Rate(
        condition,
        category,
        **{each: sum(kind == each for kind in kinds) / len(kinds) for each in KINDS},
        evaded=float(evaded.mean()),
        interval=_share_interval(evaded, Clusters.from_labels(labels, len(kinds)), level),
        n=len(kinds),
    )


def _share_interval(happened: FloatArray, units: Clusters, level: float) -> Interval:
    """Of the share of pairs of which something is so, `(pairs,)` of zeros and ones."""
    if len(units) < 2:
        return 0.0, 1.0
    share, variance = float(happened.mean()), units.variance_of_mean(happened)
    size = float(len(units))
    if variance > 0:
        size = min(size, share * (1 - share) / variance)
    found = Accuracy(share, units.deviations(happened) - share, size, len(units))
    return found.interval(t_quantile(level, len(units)))
