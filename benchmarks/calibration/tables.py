"""The tables of the page: which settings are measured, and what is required of each."""

from functools import partial
from itertools import product

import numpy as np

from benchmarks.calibration import claims, experiments, interventions
from benchmarks.calibration.figures import Figure, Range, Row, Table
from benchmarks.calibration.populations import (
    HIDDEN,
    Population,
    Tokens,
    ar_tokens,
    drift_and_lengths,
    elementwise_t3,
    gaussian,
    independent_tokens,
    low_rank,
    massive,
    multivariate_t3,
    pair_effects,
    prompt_and_pair_effects,
    real,
)
from harness.stats import smallest_detectable_effect

SIZE = Range(0.036, 0.064)
COVERAGE = Range(0.925, 0.98)
NULL = {"type-I error": SIZE, "mean d": Range(-0.03, 0.03), "mean accuracy": Range(0.49, 0.51)}
EFFECTS = (0.0, 1.5, 3.0)


def engine_table(runs: int) -> Table:
    rows = {}
    for name, n, hidden in (("H > n", 20, 300), ("H < n", 40, 10)):
        largest = experiments.largest_difference(name, massive(hidden), n, max(2, runs // 100))
        rows[name] = {"largest difference": Figure(largest, 0.0, Range(high=1e-9))}
    return Table(
        "Kernels against an explicit refit",
        "Largest difference of d, over the data as they are and 19 flips of each simulated set.",
        rows,
    )


def noise_table(runs: int) -> Table:
    rows = {}
    for name, law in (("independent tokens", independent_tokens), ("AR(0.9) tokens", ar_tokens)):
        wide = partial(law, hidden=1152)
        result = experiments.token_size(name, wide, 50, max(20, runs // 10))
        rows[name] = {
            "pooled d": result.figure("pooled d"),
            "pooled accuracy": result.figure("pooled accuracy"),
            "pooled t-test rejects": result.figure("pooled t-test rejects"),
            "held-out d": result.figure("mean d"),
            "held-out accuracy": result.figure("mean accuracy"),
            "sign flips reject": result.figure("type-I error"),
        }
    return Table(
        "Pure noise",
        "No effect at all: 50 pairs, 20 tokens, 1152 dimensions. *Pooled* is the usual way: every "
        "prompt × token vector counts as independent, and the vectors that gave the direction are "
        "scored along it. *Held-out* is ours.",
        rows,
    )


def size_table(runs: int) -> Table:
    rows: dict[str, Row] = {}
    prompts = [
        *((law, 50, True) for law in (gaussian(), massive(), elementwise_t3(), pair_effects())),
        *((law, 50, False) for law in (multivariate_t3(), low_rank())),
        (gaussian(), 20, False),
        (gaussian(), 100, True),
    ]
    for law, n, required in prompts:
        result = experiments.size(law, n, 4 * runs)
        rows[f"{law.name}, n = {n}"] = result.row(NULL if required else None)
    for law in (gaussian(20), gaussian(1152)):
        rows[f"{law.name}, n = 50"] = experiments.size(law, 50, runs).row()
    responses: list[tuple[str, Tokens, bool]] = [
        ("independent tokens", independent_tokens, False),
        ("AR(0.9) tokens", ar_tokens, True),
        ("prompt and pair effects", prompt_and_pair_effects, False),
        ("unequal lengths with drift", drift_and_lengths, False),
    ]
    for name, tokens, required in responses:
        result = experiments.token_size(name, tokens, 50, 4 * runs if required else runs)
        row = rows[f"{name}, n = 50"] = result.row(NULL if required else None)
        del row["pooled d"], row["pooled accuracy"]  # they are in the table above
    collapsed, counted = (experiments.duplicate_size(runs, collapse=c) for c in (True, False))
    rows |= {
        "… averaged without cutting to the shorter": experiments.uncut_size(50, runs).row(),
        "10 duplicates in 40 pairs, collapsed": collapsed.row(),
        "… counted as 40 pairs": counted.row(),
    }
    return Table(
        "One layer under the null",
        f"Rejections of the sign-flip test at α = 0.05 ({experiments.FLIPS} flips per run), and "
        f"means over runs of the held-out estimates; {HIDDEN} dimensions unless said otherwise. "
        "*Control* is the share of runs in which the mean d of shuffled labels lies within 0.03 + "
        "4 of its Monte Carlo errors.",
        rows,
    )


def family_table(runs: int) -> Table:
    return Table(
        "A family of tests under the null",
        "Runs with at least one rejection at α = 0.05: 26 layers, each correlated 0.9 with the one "
        "before; and the 20 tokens of AR(0.9) responses. n = 50.",
        {
            "26 correlated layers": experiments.family(50, 4 * runs).row(
                {"family-wise (maxT)": Range(0.03, 0.065), "uncorrected": Range(low=0.3)}
            ),
            "steps of AR(0.9) tokens": experiments.step_family(50, runs).row(),
        },
    )


def coverage_table(runs: int) -> Table:
    usual = (COVERAGE, Range(0.93, 0.99))
    sizes = (20, 50, 100)
    settings = [
        (gaussian(), sizes, usual),
        (massive(), sizes, usual),
        (elementwise_t3(), sizes, usual),
        (multivariate_t3(), sizes, (Range(0.86, explained=True), Range(0.94))),
        (low_rank(), sizes, (None, None)),
        (gaussian(20), (50,), (None, None)),
        (gaussian(1152), (50,), (None, None)),
    ]
    rows = {}
    for population, ns, (d, accuracy) in settings:
        for n, effect in product(ns, EFFECTS):
            result = experiments.coverage(population, n, effect, runs)
            row = result.row({"d": d, "accuracy": accuracy})
            rows[f"{population.name}, n = {n}, shift {effect:g}"] = row
    return Table(
        "Coverage of 95% intervals",
        "Share of runs whose interval holds the truth: d and accuracy of *fresh* pairs along the "
        "directions fitted in that run, averaged over folds. *Shift* is the distance of the means "
        "in units of each dimension's standard deviation; the true held-out d that follows from it "
        f"is given, averaged over runs; {HIDDEN} dimensions unless said otherwise. *Percentile "
        "bootstrap* is the usual one, with the held-out scores fixed.\n\n"
        "The multivariate t3 has no fourth moment: the standard deviation of its scores is "
        "underestimated by samples of this size and no interval built on it knows by how much. "
        "That shows where d is large (shift 3, most with 100 pairs). Less is required of it (*at "
        "least*, below); the intervals of the accuracy do not suffer.",
        rows,
    )


def power_table(runs: int) -> Table:
    settings: list[tuple[Population, int, float, str, Range | None]] = [
        (gaussian(), 50, 0.7, "d = 0.7", Range(0.7)),
        (low_rank(), 50, 0.7, "d = 0.7", None),
    ]
    for n in (20, 50, 100):
        target = smallest_detectable_effect(n)
        settings.append((gaussian(), n, target, f"d = {target:.2f} (smallest detectable)", None))
    rows = {}
    for population, n, target, name, required in settings:
        result = experiments.power(population, n, target, runs)
        rows[f"{population.name}, n = {n}, {name}"] = result.row({"power": required})
    return Table(
        "Power",
        "Rejections at α = 0.05, one layer, where the true held-out d averages the value given. "
        "`smallest_detectable_effect` aims at a power of 0.8.",
        rows,
    )


def version_table(runs: int) -> Table:
    rows = {}
    for d in (0.7, 1.5):
        same = experiments.versions(gaussian(), 50, (d, d), 4 * runs)
        apart = experiments.versions(gaussian(), 50, (d, d + 0.5), runs)
        rows[f"d = {d} in both"] = same.row({"detected": Range(0.02, 0.065)})
        rows[f"d = {d} and {d + 0.5}"] = apart.row(
            {"detected": Range(0.65), "called equivalent": Range(high=0.07)}
        )
    return Table(
        "Two versions",
        "The same 50 pairs under two versions whose activations correlate 0.9. *Detected*: the 95% "
        "interval of the change excludes zero. *Called equivalent* at a margin of 0.5; in the rows "
        "with a change of 0.5 this is an error.",
        rows,
    )


def category_table(runs: int) -> Table:
    by_chance: dict[str, Range | None] = {"some category's p below .05": Range(high=0.064)}
    rows = {
        f"no effect, {law.name}": experiments.categories(law, 50, runs).row(by_chance)
        for law in (gaussian(), multivariate_t3(), *real())
    }
    own = experiments.categories(gaussian(), 50, runs, effect="each its own")
    shared = experiments.categories(gaussian(), 50, runs, effect="shared")
    return Table(
        "Leave one category out",
        "Five categories of ten pairs: no effect, or each shifted by 6 standard deviations in one "
        "dimension, one of its own, or the same for all. The p-values are adjusted over the "
        "categories (Holm). Where each has its own, the others' direction leans a little to one "
        "side of it by chance, and that far a category does separate along it.",
        rows | {"each its own": own.row(), "one direction for all": shared.row()},
    )


def shrinkage_table(runs: int) -> Table:
    rows: dict[str, Row] = {}
    laws = [gaussian(), massive(), multivariate_t3(), low_rank(), *real()]
    for law in laws:
        found = experiments.shrinkage_size(law, 50, runs)
        rows[f"no effect, {law.name}"] = found.row({"type-I error": Range(0.028, 0.072)})
    for law in laws[3:]:
        assert law.factors is not None, "a law whose dimensions vary together"
        components = np.linalg.svd(law.factors, full_matrices=False)
        first = components[1][0] * components[2][0]
        rng = np.random.default_rng(0)
        mixture = rng.standard_normal(len(law.factors)) @ law.factors
        for name, where in (("its first component", first), ("a random mixture", mixture / 4)):
            found = experiments.shrinkage_power(law, where, 50, runs)
            rows[f"effect along {name}, {law.name}"] = found.row()
        even = law.shift(3.0)
        found = experiments.shrinkage_power(law, even, 50, runs)
        rows[f"effect in all dimensions alike, {law.name}"] = found.row()
    return Table(
        "A second direction: shrunk correlations",
        '50 pairs, one layer, α = 0.05. *Shrinkage* is `direction="shrinkage"`, chosen before '
        "looking; *mean* the default on the same pairs. Effects along the covariance's first "
        "component are one standard deviation, those along a random mixture of the factors that "
        "make it up a quarter of the mixture; the one in all dimensions alike is 3 of each "
        "dimension's standard deviations altogether.",
        rows,
    )


def cluster_table(runs: int) -> Table:
    rows = {}
    laws = [gaussian(), multivariate_t3(), *real()]
    for kind, law in product(claims.DEPENDENT, laws):
        found = claims.clusters(kind, law, runs)
        # Four standard errors of 1000 runs above .05.
        rows[f"{kind}, {law.name}"] = found.row({"type-I error": Range(high=0.064)})
    return Table(
        "Pairs that depend on each other",
        "65 pairs under the null, of which some share something. *As if independent*: the same "
        "test without clusters.",
        rows,
    )


def bound_table(runs: int) -> Table:
    def required(law: Population) -> dict[str, Range | None]:
        heavy = law.name == "multivariate t3"
        return {
            "some bound of d above its truth": Range(high=0.064, explained=heavy),
            "some bound of accuracy": Range(high=0.064),
        }

    laws = [gaussian(), multivariate_t3(), *real()]
    return Table(
        "Bounds that hold in all layers together",
        "18 layers, each correlated 0.9 with the one before, 65 pairs, the same true d in each. "
        "*Some interval of d*: the lower end of a layer's own 95% interval lies above its truth "
        "somewhere, as happens where no family is taken into account. Of the multivariate t3, "
        "which has no fourth moment, too small a spread is seen in samples of this size, so that "
        "bounds of a large d come out too high; those of the accuracy don't.",
        {
            f"true d = {d:g}, {law.name}": claims.bounds(law, d, runs).row(required(law))
            for law, d in product(laws, (0.0, 0.8, 2.0))
        },
    )


def across_table(runs: int) -> Table:
    alarms = {"claim in some layer": Range(high=0.064)}
    law = gaussian()
    rows = {
        f"{share:.0%} of the variance by category, {layers} layers": claims.across(
            law, share, 0.0, layers, runs
        ).row(alarms if share <= 0.02 else None)
        for share, layers in ((0.0, 18), (0.02, 1), (0.02, 18), (0.07, 1), (0.07, 18), (0.3, 18))
    }
    rows |= {
        f"{share:.0%} of the variance by category, 18 layers, {other.name}": claims.across(
            other, share, 0.0, 18, runs
        ).row(alarms)
        for other, share in product([multivariate_t3(), *real()], (0.0, 0.02))
    }
    power = {"claim in the first layer": Range(0.8)}
    rows |= {
        f"{share:.0%} by category, and a d of {d:g} in common, {layers} layers": claims.across(
            law, share, d, layers, runs
        ).row(power if d == 1.2 and not share else None)
        for share, d, layers in ((0.0, 0.8, 18), (0.0, 1.2, 18), (0.02, 1.2, 18), (0.07, 1.7, 18))
    }
    return Table(
        "One direction across the categories",
        "Five categories of 13 pairs. In the first rows each has an effect of its own and there is "
        "none in common; then there is one, alone worth the d that is given. The *claim* takes a "
        "family-wise p by flips of pairs, a lower bound above 0, and that no swapping of whole "
        "categories gives as much, of which there are 16. *Flips of pairs alone* is the p of "
        "directions that have not seen the category, *separation test* that of the layer itself. "
        "However large the categories' own effects are, the claim is made by chance in at most 1 "
        "run of 16, 0.0625.",
        rows,
    )


def base_table(runs: int) -> Table:
    rows = {
        f"d = {d:g} in both, {law.name}": claims.base(law, (d, d), runs).row(
            {"some layer is said to be beyond": Range(high=0.064)}
        )
        for law, d in product([gaussian(), multivariate_t3(), *real()], (0.0, 0.8, 2.0))
    }
    rows |= {
        f"d = {a:g} and {b:g}, {law.name}": claims.base(law, (a, b), runs).row()
        for law, (a, b) in product([gaussian(), *real()], ((0.0, 1.0), (1.0, 2.0)))
    }
    rows |= {
        f"topic d = {d:g} in both, own words in one, iid normal": claims.own_words(
            gaussian(), d, 3.0, runs
        ).row({"some layer is said to be beyond": Range(high=0.064)})
        for d in (0.0, 0.8, 2.0)
    }
    return Table(
        "Beyond the base model",
        "18 layers, 65 pairs, in a model and in its base whose activations correlate 0.9. *Own "
        "words in one*: training changed what the model writes, worth a d of 3, and nothing else; "
        "the claim has to hold with the same words, too.",
        rows,
    )


def gate_table(runs: int) -> Table:
    alarms = {name: Range(high=0.064) for name in ("some layer changed", "some direction turned")}
    same = {
        f"unchanged, d = {d:g}, agreement {r:g}, {law.name}": (law, r, (d, d), 0.0)
        for law, (d, r) in product([gaussian(), *real()], ((0.8, 0.9), (2.0, 0.9), (2.0, 0.99)))
    }
    rows = {name: claims.gate(*setting, runs).row(alarms) for name, setting in same.items()}
    law = gaussian()
    missed = {"d equivalent in all": Range(high=0.064)}
    rows["d = 1.5 and 2, agreement 0.9"] = claims.gate(law, 0.9, (1.5, 2.0), 0.0, runs).row(missed)
    rows["d = 2 and 1, agreement 0.9"] = claims.gate(law, 0.9, (2.0, 1.0), 0.0, runs).row(missed)
    kept = {"direction the same in all": Range(high=0.064)}
    for turned, required in ((26.0, kept), (60.0, kept)):
        rows[f"d = 2, turned by {turned:g}°, agreement 0.9"] = claims.gate(
            law, 0.9, (2.0, 2.0), turned, runs
        ).row(required)
    return Table(
        "The gate",
        "18 layers, 65 pairs, two versions whose activations correlate as given (*agreement*), "
        "with the true d of each, margin 0.5, cosine 0.9 (26°). *No family*: some layer's own 95% "
        "interval excludes 0, and it isn't equivalent. *Said of an unchanged model*: the "
        "probability, said after each run, that all layers of an unchanged model are equivalent; "
        "in the first rows it is to be compared with how often they are.",
        rows,
    )


def behaviour_table(runs: int) -> Table:
    alarms = {"claim in some layer": Range(high=0.064)}
    null = ("unrelated to the scores", "nothing but the category", "few of a kind")
    rows = {kind: claims.behaviour(kind, runs).row(alarms) for kind in null}
    for size in (0.5, 1.0):
        kind = f"the direction, {size:g} times"
        rows[f"evaded prompts lie further along {kind} the separation"] = claims.behaviour(
            kind, runs
        ).row()
    return Table(
        "Where the model evades",
        "18 layers, 65 pairs in five categories, d = 1.5 and more: the categories' artifact "
        "prompts lie at different distances. Which of them are evaded is drawn at random, is the "
        "category itself, or goes with the scores.",
        rows,
    )


def decision_table(runs: int) -> Table:
    rows = {}
    for d, threshold in ((1.1, 0.8), (1.5, 0.8), (0.5, 0.0)):
        number = claims.said(d, threshold, max(20, runs // 10)).figure("pairs said")
        decides = claims.decides(d, threshold, round(number.value), runs)
        rows[f"d = {d:g}, threshold {threshold:g}"] = {
            "pairs said": number,
            **decides.row({"decides": Range(0.75)}),
        }
    return Table(
        "Pairs that would decide it",
        "What the message of an inconclusive layer says after 65 pairs that show the true d, and "
        "how often so many pairs decide it. It aims at 0.8.",
        rows,
    )


def intervention_table(runs: int) -> Table:
    alarms = {"some layer is said to be used": Range(high=0.064)}
    laws = (gaussian(), low_rank(), multivariate_t3(), *real())
    settings = [*product(laws, (65,), (1.0, 4.0)), (low_rank(), 12, 4.0)]
    many, few = max(20, runs // 2), max(20, runs // 10)
    rows = {
        "noise in the embedded model": interventions.embedded((6, 7), 59, many).row(alarms),
    }
    rows |= {
        f"{law.name}, {n} pairs, {'nearly linear' if steep == 1 else 'steep'}": (
            interventions.unread(law, n, steep, 0.0, many).row(alarms)
        )
        for law, n, steep in settings
    }
    rows |= {
        f"{law.name}, sources of one to eight pairs": (
            interventions.unread(law, 65, 4.0, 0.0, many, 22).row(alarms)
        )
        for law in laws
    }
    apart = interventions.unread(gaussian(), 65, 1.0, 20.0, many)
    rows["apart by 20 where nothing reads"] = apart.row(alarms)
    rows |= {
        f"read, {length:g} apart": interventions.read(gaussian(), length, few).row()
        for length in (1.0, 5.0, 20.0, 40.0)
    }
    return Table(
        "Interventions along a direction that nothing reads",
        "8 layers, correlated 0.9 with the one before, addition and ablation, 200 random "
        "directions. A small network of tanh units stands in for what the model makes of each "
        "layer; *steep* ones are near saturation. In the first row it is the embedded model "
        "itself, at its last two layers, with noise in place of the captured activations, 59 "
        "random directions and answers of three tokens. *With the mean*: random signs of the "
        "pairs' differences as they are. *At right angles, alone*: as this project did it first, "
        "50 random directions without what they have of the tested one, each layer and "
        "intervention by itself. *Read*: the conditions lie apart along what the network reads, in "
        "every layer; the difference within a pair has a length of 20. *Sources*: clusters of "
        "unequal size, with half of the variance in common. 500 runs, of *read* 100.",
        rows,
    )


TABLES = (
    engine_table,
    noise_table,
    size_table,
    family_table,
    coverage_table,
    power_table,
    version_table,
    category_table,
    shrinkage_table,
    cluster_table,
    bound_table,
    across_table,
    base_table,
    gate_table,
    behaviour_table,
    decision_table,
    intervention_table,
)
