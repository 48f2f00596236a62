"""Other explanations: planted ones are found, and what the checks say of each."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis.causality import Effect
from harness.analysis.claims import ladder
from harness.analysis.comparison import LayerComparison, VersionComparison
from harness.analysis.controls import (
    category_folds,
    category_transfer,
    step_curves,
    text_baselines,
)
from harness.analysis.gate import covers_baseline, gate, same_direction, unchanged
from harness.analysis.judges import (
    beyond_base,
    beyond_embeddings,
    companion_separates,
    crosses_categories,
    follows_behaviour,
    uses_direction,
)
from harness.analysis.verdict import CheckFailedError
from harness.data.pairs import Pair
from harness.data.store import Response
from harness.settings import AnalysisSettings, Criteria
from harness.stats import CategoryTransfer, DirectionDrift, Following, separation
from tests.support.builders import (
    PAIRS,
    SEPARATION,
    layer_result,
    measured_separation,
    noise,
    parsed,
    planted,
    run_of,
    two_categories,
)
from tests.support.measured import change_of, measured, pairs_of

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")
KEY = (0, "mlp_out")
SETTINGS = AnalysisSettings()
CRITERIA = Criteria(d_threshold=0.8, alpha=0.05)
WORDS = [f"word{number}" for number in range(30)]


def prompts(artifact, natural, count=16):
    """Pairs whose prompts are made of a few random words each."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        words = [str(word) for word in rng.choice(WORDS, 3 + number % 4, replace=False)]
        made.append(
            Pair("one", f"q{number:02d}", " ".join(natural(words)), " ".join(artifact(words)))
        )
    return tuple(made)


def answers(pairs, artifact, natural):
    """Responses with the token ids that the functions give for a pair's number."""
    return {
        pair.group(condition): Response(tuple(how(number)), "", "length")
        for number, pair in enumerate(pairs)
        for condition, how in (("artifact", artifact), ("natural", natural))
    }


def baselines(activations, responses=None):
    responses = responses or answers(activations.pairs, lambda n: (n,), lambda n: (n,))
    found = text_baselines(activations, responses, AnalysisSettings(replicates=200))
    return {text.name: text for text in found}


class TestTexts:
    def test_a_word_that_gives_the_condition_away(self):
        pairs = prompts(artifact=lambda w: ["danger", *w[1:]], natural=lambda w: w)
        found = baselines(measured({KEY: 0.0}, pairs=pairs))
        assert set(found) == {"prompt_words"}, "all lengths and responses are the same"
        assert found["prompt_words"].separation.d > 2
        assert found["prompt_words"].separation.p_value < 0.01
        assert "words the prompt has" in found["prompt_words"].description

    def test_case_and_punctuation_are_no_words(self):
        pairs = prompts(
            artifact=lambda w: [*reversed(w), "?!"], natural=lambda w: [word.upper() for word in w]
        )
        assert baselines(measured({KEY: 3.0}, pairs=pairs)) == {}

    def test_a_longer_prompt(self):
        pairs = prompts(artifact=lambda w: [*w, w[0]] * 2, natural=lambda w: w)
        assert baselines(measured({KEY: 0.0}, pairs=pairs))["prompt_length"].separation.d > 1

    @pytest.mark.parametrize(("effect", "sign"), [(9.0, 1), (0.0, -1)])
    def test_beyond_is_the_model_less_the_text(self, effect, sign):
        pairs = prompts(
            # A give-away in three of four prompts.
            artifact=lambda w: ["danger", *w[1:]] if len(w) > 3 else [w[0], "other", *w[2:]],
            natural=lambda w: w,
        )
        activations = measured({KEY: effect, (1, "mlp_out"): 0.0}, pairs=pairs, width=2)
        text = baselines(activations)["prompt_words"]
        beyond = text.beyond[KEY]
        (model,) = separation(
            activations.artifact[0][None], activations.natural[0][None], permutations=200
        )
        assert beyond.d_b == pytest.approx(model.d)
        assert beyond.d_a == pytest.approx(text.separation.d)
        assert beyond.difference == pytest.approx(beyond.d_b - beyond.d_a)
        assert sign * beyond.difference > 0.5
        assert set(text.beyond) == set(activations.keys)
        assert text.beyond[1, "mlp_out"].difference < 0

    def test_responses_are_cut_to_the_tokens_both_have(self):
        activations = measured({KEY: 0.0})
        same_start = answers(
            activations.pairs,
            artifact=lambda n: (n, 1, 2, 9, 9, 9),
            natural=lambda n: (n, 1, 2)[: 2 + n % 2],
        )
        found = baselines(activations, same_start)
        assert "response_words" not in found
        assert found["response_length"].separation.d > 2

    def test_a_token_that_gives_the_condition_away(self):
        activations = measured({KEY: 0.0})
        found = baselines(
            activations,
            answers(
                activations.pairs, lambda n: (99, n, n + 1, n + 2), lambda n: (n, n + 1, n + 3, n)
            ),
        )
        assert found["response_words"].separation.d > 1
        assert "response_length" not in found

    def test_equal_lengths_are_not_one_observation(self):
        """Four combinations of lengths only, on sixteen pairs."""
        activations = measured({KEY: 0.0})
        found = baselines(
            activations,
            answers(activations.pairs, lambda n: range(4 + n % 2), lambda n: range(2 + n // 2 % 2)),
        )
        assert found["response_length"].separation.n_pairs == 16
        assert found["response_length"].beyond[KEY].n_pairs == 16

    def test_equal_answers_are_not_one_observation(self):
        """A model that evades in one of two ways, and agrees in one of two."""
        activations = measured({KEY: 0.0})
        found = baselines(
            activations,
            answers(
                activations.pairs, lambda n: (1, 2, 3 + n % 2), lambda n: (5, 2, 6 + n // 2 % 2)
            ),
        )
        assert found["response_words"].separation.n_pairs == 16
        assert found["response_words"].separation.d > 2

    def test_the_same_two_answers_everywhere(self):
        """The text tells all, and no layer can be beyond it."""
        activations = measured({KEY: 9.0})
        with warnings.catch_warnings(action="ignore"):
            found = baselines(
                activations, answers(activations.pairs, lambda _: (1, 2), lambda _: (3, 4))
            )
        assert found["response_words"].separation.d > 1e6
        assert not found["response_words"].beyond[KEY].lower > 0

    def test_nothing_written(self):
        """As at positions "prompt_last"."""
        activations = measured({KEY: 3.0})
        found = baselines(activations, answers(activations.pairs, lambda _: (), lambda _: ()))
        assert set(found) == {"prompt_words", "prompt_length"}

    def test_prompts_without_words(self):
        pairs = tuple(
            Pair("one", f"q{number:02d}", "?" * (number + 1), "!" * (number + 1))
            for number in range(16)
        )
        assert baselines(measured({KEY: 3.0}, pairs=pairs)) == {}


class TestCategories:
    CATEGORIES = ("one", "two", "three", "four", "five")
    PAIRS = pairs_of(50, CATEGORIES)

    def test_one_that_lies_the_other_way_round(self):
        activations = measured({KEY: 4.0, (1, "mlp_out"): 4.0}, pairs=self.PAIRS, width=3)
        turned = [pair.category == "three" for pair in self.PAIRS]
        activations.artifact[1][turned, 0] -= 8.0
        found = category_transfer(activations, SETTINGS)
        assert list(found) == list(activations.keys)
        here = {transfer.category: transfer for transfer in found[1, "mlp_out"]}
        assert list(here) == list(self.CATEGORIES)
        assert here["three"].d < -1
        assert here["three"].d_interval[1] < 0
        assert here["three"].accuracy < 0.5
        for name in ("one", "two", "four", "five"):
            assert here[name].d > 1
            assert here[name].d_interval[0] > 0
        assert all(transfer.d_interval[0] > 0 for transfer in found[KEY])

    def test_intervals(self):
        for seed in range(5):
            activations = measured({KEY: 2.0}, pairs=self.PAIRS, seed=seed)
            for transfer in category_transfer(activations, SETTINGS)[KEY]:
                low, high = transfer.d_interval
                assert -math.inf < low < transfer.d < high < math.inf
                assert 0.5 < high - low < 20
                assert transfer.n_pairs == 10

    def test_small_ones_are_left_out(self):
        pairs = tuple(
            replace(pair, category="rare" if number < 2 else pair.category)
            for number, pair in enumerate(self.PAIRS)
        )
        found = category_transfer(measured({KEY: 2.0}, pairs=pairs), SETTINGS)[KEY]
        assert {transfer.category for transfer in found} == set(self.CATEGORIES)

    def test_only_one(self):
        assert (
            category_transfer(measured({KEY: 2.0}, pairs=pairs_of(16, ("one",))), SETTINGS)[KEY]
            == ()
        )


class TestSteps:
    PAIRS = parsed(two_categories(16))
    LAYERS, SITES = (2, 5), ("resid_post", "mlp_out")

    def curves(self, root, tokens, replicates=200):
        run = run_of(root, self.PAIRS, tokens, layers=self.LAYERS, sites=self.SITES)
        activations = measured(
            {(layer, site): 0.0 for site in self.SITES for layer in self.LAYERS},
            pairs=self.PAIRS.pairs,
        )
        return step_curves(run, activations, AnalysisSettings(replicates=replicates))

    def test_an_effect_at_one_token_of_one_layer(self, tmp_path):
        def tokens(pair, condition, layer, site):
            values = noise(1, steps=5, width=8)(pair, condition, layer, site)
            if (condition, layer, site) == ("artifact", 5, "mlp_out"):
                values[3, 0] += 9
            return values

        found = self.curves(tmp_path, tokens)
        assert set(found) == {(layer, site) for site in self.SITES for layer in self.LAYERS}
        for key, steps in found.items():
            assert [step.step for step in steps] == [0, 1, 2, 3, 4]
            assert all(step.n_pairs == 16 for step in steps)
            significant = [step.step for step in steps if step.p_adjusted < 0.02]
            assert significant == ([3] if key == (5, "mlp_out") else [])
        d = [step.d for step in found[5, "mlp_out"]]
        assert d[3] > 3
        assert max(abs(value) for step, value in enumerate(d) if step != 3) < 1.5

    def test_tokens_that_few_pairs_have_are_left_out(self, tmp_path):
        def tokens(pair, condition, layer, site):
            steps = 3 if int(pair.id[1:]) < 8 and condition == "natural" else 5
            return planted(3.0, noise(2, steps=5, width=8))(pair, condition, layer, site)[:steps]

        assert all(len(steps) == 3 for steps in self.curves(tmp_path, tokens).values())

    @pytest.mark.parametrize(("replicates", "smallest"), [(200, 1 / 200), (9000, 1 / 1000)])
    def test_replicates(self, tmp_path, replicates, smallest):
        found = self.curves(tmp_path, planted(60.0, noise(3, steps=2, width=8)), replicates)
        for steps in found.values():
            assert [step.p_value for step in steps] == pytest.approx([smallest, smallest])


def says(verdict, *parts):
    """Whether an explanation holds all of these, and is what a failing check prints."""
    for part in parts:
        assert part in verdict.explanation, verdict.explanation
    if verdict.outcome == "passed":
        verdict.require()
    else:
        with pytest.raises(CheckFailedError) as caught:
            verdict.require()
        assert str(caught.value) == verdict.explanation


class TestCrossesCategories:
    @pytest.mark.parametrize(
        ("changes", "outcome"),
        [
            ({}, "passed"),
            ({"d_interval": (0.0, 0.5)}, "inconclusive"),
            ({"d_interval": (-0.5, 0.0)}, "failed"),
            ({"p_adjusted": 0.05}, "inconclusive"),
            ({"p_folds": 1 / 8}, "inconclusive"),
            ({"p_folds": math.nan}, "inconclusive"),
            ({"p_folds": 1 / 32}, "passed"),
            ({"d": math.nan, "d_interval": (math.nan, math.nan)}, "failed"),
        ],
    )
    def test_outcome(self, changes, outcome):
        across = measured_separation(**{"p_folds": 1 / 16, **changes})
        result = replace(layer_result(), across=across)
        assert crosses_categories(result, CRITERIA).outcome == outcome

    def test_says_the_numbers_and_the_weakest(self):
        transfer = (
            CategoryTransfer("one", 1.3, (0.9, 1.7), 0.8, 13, 13, 0.001, 0.002),
            CategoryTransfer("two", 0.2, (-0.4, 0.8), 0.6, 13, 12, 0.23, 0.23),
        )
        across = measured_separation(d=0.31, d_interval=(-0.1, 0.7), p_folds=0.125)
        result = replace(layer_result(), across=across, transfer=transfer)
        says(
            crosses_categories(result, CRITERIA),
            "have not seen the category d = 0.31 [-0.10, 0.70]",
            "at least -0.10",
            "swapping whole categories 0.1250",
            "weakest category two, d = 0.20, p = 0.2300 adjusted over the categories",
        )

    def test_too_few_categories(self):
        verdict = crosses_categories(replace(layer_result(), across=None), CRITERIA)
        assert verdict.outcome == "undecidable"
        says(verdict, "that takes 5 categories")


class TestFolds:
    def folds(self, categories, clusters=None):
        pairs = tuple(replace(p, category=c) for p, c in zip(PAIRS * 4, categories, strict=False))
        return category_folds(pairs, tuple(range(len(pairs))) if clusters is None else clusters)

    def test_are_the_categories(self):
        assert self.folds("abcdeabcde") == (0, 1, 2, 3, 4, 0, 1, 2, 3, 4)

    @pytest.mark.parametrize("categories", ["abcdabcd", "aaaaabcdef"])
    def test_too_few_or_one_too_large(self, categories):
        assert self.folds(categories) is None

    def test_categories_that_share_a_cluster_are_one(self):
        clusters = (0, 0, *range(2, 12))
        assert self.folds("abcdefabcdef", clusters) == (0, 0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4)
        assert self.folds("abcdeabcde", (0, 0, *range(2, 10))) is None


class TestCompanion:
    @pytest.mark.parametrize(
        ("bounds", "p", "outcome"),
        [
            ((0.1, 0.5), 0.049, "passed"),
            ((0.1, 0.5), 0.05, "inconclusive"),
            ((0.0, 0.5), 0.001, "inconclusive"),
            ((-0.5, 0.5), 0.9, "inconclusive"),
            ((-0.5, 0.0), 0.001, "failed"),
            ((-0.5, -0.1), 0.9, "failed"),
            ((math.nan, math.nan), 1.0, "failed"),
        ],
    )
    def test_outcome(self, bounds, p, outcome):
        other = measured_separation(d=sum(bounds) / 2, d_interval=bounds, p_adjusted=p)
        result = replace(layer_result(), companions={"forced": other, "prompt_last": SEPARATION})
        assert companion_separates(result, "forced", CRITERIA).outcome == outcome
        assert companion_separates(result, "prompt_last", CRITERIA).outcome == "passed"

    def test_alpha_is_that_of_the_criteria(self):
        result = replace(
            layer_result(), companions={"forced": replace(SEPARATION, p_adjusted=0.03)}
        )
        assert companion_separates(result, "forced", Criteria(alpha=0.02)).outcome != "passed"

    def test_says_the_numbers(self):
        other = measured_separation(d=0.21, d_interval=(-0.3, 0.72), p_adjusted=0.4321)
        result = replace(layer_result(d=2.5), companions={"forced": other})
        says(
            companion_separates(result, "forced", CRITERIA),
            "'forced' d = 0.21 [-0.30, 0.72]",
            "p = 0.4321",
            "while d is 2.50",
        )


class TestBeyondBase:
    @pytest.mark.parametrize(
        ("bounds", "outcome"),
        [
            ((0.1, 0.5), "passed"),
            ((0.0, 0.5), "inconclusive"),
            ((-0.5, 0.5), "inconclusive"),
            ((-0.5, -0.1), "failed"),
            ((math.nan, math.nan), "failed"),
        ],
    )
    def test_outcome(self, bounds, outcome):
        result = replace(layer_result(), beyond_base=change_of(*bounds))
        assert beyond_base(result).outcome == outcome

    def test_says_the_numbers(self):
        result = replace(layer_result(), beyond_base=change_of(-0.5, 1.0))
        says(
            beyond_base(result),
            "d = 1.50 is 0.25 [-0.50, 1.00] beyond that of the base model, 1.25",
            "training is not shown",
        )

    @pytest.mark.parametrize(
        ("own", "same", "outcome"),
        [
            ((0.1, 0.5), (0.1, 0.3), "passed"),
            ((0.1, 0.5), (-0.1, 0.3), "inconclusive"),
            ((-0.1, 0.5), (0.1, 0.3), "inconclusive"),
            ((0.1, 0.5), (-0.3, -0.1), "failed"),
            ((-0.5, -0.1), (0.1, 0.3), "failed"),
            ((0.1, 0.5), (math.nan, math.nan), "failed"),
        ],
    )
    def test_not_by_its_words_alone(self, own, same, outcome):
        result = replace(
            layer_result(), beyond_base=change_of(*own), beyond_base_same_words=change_of(*same)
        )
        verdict = beyond_base(result)
        assert verdict.outcome == outcome
        says(verdict, "with the same words after both prompts d = ")
        assert verdict.explanation.count("beyond that of the base model") == 2
        assert ("training is not shown" in verdict.explanation) == (outcome != "passed")
        assert ladder(result, CRITERIA).holds("beyond_base") == (outcome == "passed")

    def test_without_a_base_model(self):
        with pytest.raises(ValueError, match="without a base model"):
            beyond_base(layer_result())


class TestFollowsBehaviour:
    @pytest.mark.parametrize(
        ("auroc", "lower", "p", "outcome"),
        [
            (0.9, 0.7, 0.001, "passed"),
            (0.9, 0.7, 0.2, "inconclusive"),
            (0.6, 0.4, 0.001, "inconclusive"),
            (0.45, 0.3, 0.9, "failed"),
        ],
    )
    def test_outcome(self, auroc, lower, p, outcome):
        follows = Following(auroc, lower, 0.0, p, p, 0.0, 12, 9, 5, (1.0,), (0.0,))
        verdict = follows_behaviour(replace(layer_result(), follows=follows), None, CRITERIA)
        assert verdict.outcome == outcome
        says(verdict, f"AUROC = {auroc:.2f}, at least {lower:.2f}", "12 evaded, 9 answered")

    def test_was_not_asked(self):
        assert follows_behaviour(layer_result(), None, CRITERIA) is None


class TestBeyondEmbeddings:
    def test_can_refute_the_claim_and_never_shows_it(self):
        change = change_of(0.1, 0.5)
        alone = replace(layer_result(), companions={}, beyond_embeddings=change)
        says(
            beyond_embeddings(alone),
            "beyond that of the written tokens' input embeddings, 1.25",
        )
        verdict = ladder(alone, CRITERIA).verdicts["beyond_words"]
        assert verdict.outcome == "undecidable"
        says(verdict, "is told by the same words after both prompts (positions forced)")
        missed = replace(alone, beyond_embeddings=change_of(-0.1, 0.5))
        assert ladder(missed, CRITERIA).verdicts["beyond_words"].outcome == "inconclusive"
        assert (
            ladder(replace(alone, beyond_embeddings=None), CRITERIA).verdicts["beyond_words"]
            is None
        )


def compared(low, high, drift=None, **changes):
    return LayerComparison(6, "mlp_out", change_of(low, high, **changes), drift)


class TestUnchanged:
    def test_equivalent(self):
        verdict = unchanged(compared(-0.1, 0.2, verdict="equivalent"))
        assert verdict.outcome == "passed"
        says(verdict, "layer 6, mlp_out: d went from 1.25 to 1.30", "+0.05 [-0.10, 0.20]")
        says(verdict, ": within ±0.5", "(n = 16 pairs)")
        assert "detectable" not in verdict.explanation

    def test_equivalent_but_detectable(self):
        verdict = unchanged(compared(0.1, 0.2, verdict="equivalent"))
        assert verdict.outcome == "passed"
        says(verdict, "detectable, but within ±0.5")

    @pytest.mark.parametrize(
        ("low", "high", "how"), [(0.6, 1.4, "stronger"), (-1.4, -0.6, "weaker")]
    )
    def test_changed(self, low, high, how):
        verdict = unchanged(compared(low, high))
        assert verdict.outcome == "failed"
        says(verdict, f"{how} than in the baseline", f"{1 if how == 'stronger' else -1:+.2f}")

    def test_inconclusive(self):
        verdict = unchanged(compared(-0.6, 1.4, margin=0.3))
        assert verdict.outcome == "inconclusive"
        says(verdict, "+0.40 [-0.60, 1.40]", "neither within ±0.3", "--artifact-margin")

    def test_direction(self):
        drift = DirectionDrift(0.87, (0.8, 0.9), 0.02, "inconclusive", 0.2, 0.9, 16, 16)
        says(unchanged(compared(-1, 1, drift)), "direction cosine 0.87")
        assert "cosine" not in unchanged(compared(-1, 1)).explanation

    def test_noise(self):
        noisy = replace(compared(-1, 1), noise=0.0123)
        says(unchanged(noisy), "in other batches the same version's differs by 0.012")


def drifted(verdict, *, separated=True):
    drift = DirectionDrift(0.87, (0.8, 0.93), 0.03, verdict, 0.0123, 0.9, 16, 16)
    change = change_of(-0.1, 0.2, verdict="equivalent")
    return LayerComparison(6, "mlp_out", change, drift, separated)


class TestSameDirection:
    @pytest.mark.parametrize(
        ("verdict", "outcome"),
        [("same", "passed"), ("turned", "failed"), ("inconclusive", "inconclusive")],
    )
    def test_outcome(self, verdict, outcome):
        assert same_direction(drifted(verdict)).outcome == outcome

    def test_says_the_numbers(self):
        says(
            same_direction(drifted("turned")),
            "layer 6, mlp_out: the cosine between the baseline's direction and this run's is 0.87 "
            "[0.80, 0.93]: below 0.9, p over all layers 0.0123",
        )

    def test_other_widths(self):
        verdict = same_direction(replace(drifted("same"), drift=None))
        assert verdict.outcome == "inconclusive"
        says(verdict, "widths differ")


class TestGate:
    def versions(self, *layers, absent=()):
        return VersionComparison(
            "0001_v1", "this run", dict(enumerate(layers)), {}, 0.5, (), (), absent, (), ()
        )

    def test_all_is_the_same(self):
        assert gate(self.versions(drifted("same")), CRITERIA) == "passed"

    def test_a_direction_counts_where_the_baseline_separated(self):
        for verdict, outcome in (("turned", "failed"), ("inconclusive", "inconclusive")):
            assert gate(self.versions(drifted("same"), drifted(verdict)), CRITERIA) == outcome
            alone = self.versions(drifted("same"), drifted(verdict, separated=False))
            assert gate(alone, CRITERIA) == "passed"

    def test_a_layer_that_changed(self):
        changed = replace(drifted("same"), comparison=change_of(1, 2))
        assert gate(self.versions(drifted("same"), changed), CRITERIA) == "failed"

    def test_layers_that_are_not_looked_at(self):
        found = self.versions(drifted("same"), absent=tuple(f"layer_{n}-mlp_out" for n in range(9)))
        assert gate(found, CRITERIA) == "failed"
        assert gate(found, replace(CRITERIA, partial=True)) == "passed"
        says(covers_baseline(found, CRITERIA), "0001_v1 has 9 layers", "layer_7-mlp_out, …",
             "--artifact-partial")  # fmt: skip
        says(covers_baseline(found, replace(CRITERIA, partial=True)), "that is meant so")
        alone = self.versions(drifted("same"), absent=("layer_1-mlp_out",))
        says(covers_baseline(alone, CRITERIA), "has 1 layer and site that")
        assert covers_baseline(self.versions(drifted("same")), CRITERIA).outcome == "passed"


def effect(kind, low, high, **changes):
    values = {
        "kind": kind,
        "shift": (low + high) / 2,
        "shift_interval": (low, high),
        "own_shift": 0.1234,
        "random_shift": 0.01,
        "p_value": 0.0196,
        "p_adjusted": 0.0392,
        "divergence": 0.5,
        "random_divergence": 0.4,
        "n_pairs": 16,
        "n_random": 50,
    }
    return Effect(**{**values, **changes})


class TestUsesDirection:
    @pytest.mark.parametrize(
        ("bounds", "adding", "ablating"),
        [
            ((0.1, 0.5), "passed", "failed"),
            ((-0.1, 0.5), "inconclusive", "inconclusive"),
            ((-0.5, -0.1), "failed", "passed"),
            ((0.0, 0.0), "failed", "failed"),
            ((math.nan, math.nan), "failed", "failed"),
        ],
    )
    def test_outcome(self, bounds, adding, ablating):
        assert uses_direction(layer_result(), effect("add", *bounds), CRITERIA).outcome == adding
        assert (
            uses_direction(layer_result(), effect("ablate", *bounds), CRITERIA).outcome == ablating
        )

    def test_says_the_numbers(self):
        verdict = uses_direction(layer_result(), effect("add", -0.125, 0.25), CRITERIA)
        says(verdict, "adding the direction to natural prompts", "+0.123 nats per token")
        says(verdict, "+0.062 [-0.125, +0.250] beyond 50 random directions", "16 pairs")
        says(verdict, "family-wise rank p = 0.0392 ± ", "by itself 0.0196")
        says(verdict, "not shown to use")
        verdict = uses_direction(layer_result(), effect("ablate", -1, -0.5), CRITERIA)
        says(verdict, "ablating it from artifact prompts")

    @pytest.mark.parametrize(
        ("p", "alpha", "outcome"),
        [
            (0.049, 0.05, "passed"),
            (0.05, 0.05, "inconclusive"),
            (0.6, 0.05, "inconclusive"),
            (0.0196, 0.01, "inconclusive"),
        ],
    )
    def test_random_directions_that_do_as_much(self, p, alpha, outcome):
        """All pairs are moved the same way, but not further than by any other direction."""
        for found in (
            effect("add", 0.1, 0.5, p_adjusted=p),
            effect("ablate", -0.5, -0.1, p_adjusted=p),
        ):
            verdict = uses_direction(layer_result(), found, Criteria(alpha=alpha))
            assert verdict.outcome == outcome
            assert ("not shown" in verdict.explanation) == (outcome != "passed")

    def test_rank_alone_is_not_enough(self):
        found = effect("add", -0.1, 0.5, p_value=0.0196)
        assert uses_direction(layer_result(), found, CRITERIA).outcome == "inconclusive"
