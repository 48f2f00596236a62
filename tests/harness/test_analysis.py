"""Known activations in, the right figures out: nothing swapped, shifted, leaked or mislaid."""

import random
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis.estimating import AnalysisError, analyze
from harness.settings import AnalysisSettings
from harness.stats import in_sample_separation, separation
from tests.support.builders import (
    analysis_of,
    document,
    entry,
    layer_result,
    noise,
    parsed,
    planted,
    run_of,
    two_categories,
)

pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:only .* pairs"),
]

FAST = AnalysisSettings(replicates=200)
PAIRS = parsed(two_categories(24))


def analysed(root, tokens, pairs=PAIRS, *, layers=(0,), sites=("mlp_out",), **arrangement):
    run = run_of(root, pairs, tokens, layers=layers, sites=sites, **arrangement)
    return analyze(run, pairs, layers=layers, sites=sites, settings=FAST)


def means(tokens, pairs, layer=0, site="mlp_out"):
    """Both arms' token means, made without the code under test; tokens of equal number."""
    return [
        np.array([tokens(pair, c, layer, site).astype(np.float64).mean(axis=0) for pair in pairs])
        for c in ("artifact", "natural")
    ]


class TestFigures:
    def test_are_those_of_the_pair_means(self, tmp_path):
        tokens = planted(1.5, noise(1))
        result = analysed(tmp_path, tokens)[0, "mlp_out"]
        artifact, natural = means(tokens, PAIRS)
        (expected,) = separation(artifact[None], natural[None], permutations=200, bootstrap=200)
        assert result.separation.d == pytest.approx(expected.d, abs=1e-6)
        assert result.separation.d_interval == pytest.approx(expected.d_interval, abs=1e-5)
        assert result.separation.accuracy == expected.accuracy
        assert result.separation.p_value == expected.p_value
        np.testing.assert_allclose(
            result.separation.scores_artifact, expected.scores_artifact, atol=1e-5
        )

    def test_in_sample_pools_all_tokens(self, tmp_path):
        tokens = planted(1.5, noise(1))
        result = analysed(tmp_path, tokens)[0, "mlp_out"]
        arms = [
            np.array([tokens(pair, c, 0, "mlp_out") for pair in PAIRS])
            for c in ("artifact", "natural")
        ]
        expected = in_sample_separation(*arms)
        assert result.in_sample.n_vectors == expected.n_vectors == 2 * 24 * 3
        assert result.in_sample.d == pytest.approx(expected.d, abs=1e-6)

    def test_settings_are_handed_on(self, tmp_path):
        tokens = planted(1.0, noise(1))
        run = run_of(tmp_path, PAIRS, tokens)
        artifact, natural = (arm[None] for arm in means(tokens, PAIRS))
        settings = AnalysisSettings(scale="raw", replicates=300, level=0.8, seed=5)
        found = analyze(run, PAIRS, layers=[0], sites=["mlp_out"], settings=settings)
        (expected,) = separation(
            artifact, natural, scale="raw", permutations=300, bootstrap=300, level=0.8, seed=5
        )
        assert found.settings == settings
        assert found[0, "mlp_out"].separation.p_value == expected.p_value
        assert found[0, "mlp_out"].separation.d_interval == pytest.approx(
            expected.d_interval, abs=1e-5
        )

    def test_p_is_over_the_whole_family(self, tmp_path):
        layers, sites = (0, 1, 2), ("mlp_out", "resid_post")
        tokens = noise(3)
        found = analysed(tmp_path, tokens, layers=layers, sites=sites)
        arms = [means(tokens, PAIRS, layer, site) for site in sites for layer in layers]
        expected = separation(
            [arm[0] for arm in arms], [arm[1] for arm in arms], permutations=200, bootstrap=200
        )
        adjusted = [result.separation.p_adjusted for result in found.values()]
        assert adjusted == [result.p_adjusted for result in expected]
        assert any(r.separation.p_adjusted > r.separation.p_value for r in found.values())

    def test_unequal_lengths_are_cut_to_the_shorter(self, tmp_path):
        """Activations drift with position; the artifact arm goes on for longer."""

        def drifting(pair, condition, layer, site):
            steps = 9 if condition == "artifact" else 4
            start = noise(5, steps=4)(pair, condition, layer, site)
            later = np.full((steps - 4, 40), 50.0, np.float32)
            return np.concatenate([start, later])

        result = analysed(tmp_path, drifting)[0, "mlp_out"]
        (expected,) = separation(
            *(arm[None] for arm in means(noise(5, steps=4), PAIRS)),
            permutations=200,
            bootstrap=200,
        )
        assert result.separation.d == pytest.approx(expected.d, abs=1e-6)
        assert abs(result.separation.d) < 1


class TestDirection:
    def test_sign(self, tmp_path):
        """Artifact scores are the high ones, whichever way the arms differ."""
        for number, effect in enumerate((4.0, -4.0)):
            s = analysed(tmp_path / str(number), planted(effect, noise(7)))[0, "mlp_out"].separation
            assert s.d > 1
            assert np.mean(s.scores_artifact) > 0 > np.mean(s.scores_natural)

    def test_swapping_the_arms_swaps_and_turns_the_scores(self, tmp_path):
        """The direction is learnt anew, so d stays and what each arm scored goes to the other."""
        tokens = planted(2.0, noise(8))
        other = {"natural": "artifact", "artifact": "natural"}
        one = analysed(tmp_path / "1", tokens)[0, "mlp_out"].separation
        two = analysed(
            tmp_path / "2", lambda pair, condition, *place: tokens(pair, other[condition], *place)
        )[0, "mlp_out"].separation
        assert two.d == pytest.approx(one.d, abs=1e-9)
        np.testing.assert_allclose(two.scores_artifact, -np.array(one.scores_natural), atol=1e-9)
        np.testing.assert_allclose(two.scores_natural, -np.array(one.scores_artifact), atol=1e-9)

    def test_arms_are_not_mixed_up(self, tmp_path):
        """Only the artifact arm varies, so only its scores do."""

        def tokens(pair, condition, layer, site):
            values = planted(3.0, noise(9))(pair, condition, layer, site)
            return values * np.float32(10 if condition == "artifact" else 0.1)

        s = analysed(tmp_path, tokens)[0, "mlp_out"].separation
        assert np.std(s.scores_artifact) > 5 * np.std(s.scores_natural)

    def test_no_pair_leaks_into_its_own_direction(self, tmp_path):
        """On pure noise the held-out d averages nothing, while the in-sample d is large."""
        layers = tuple(range(12))
        found = analysed(tmp_path, noise(10, steps=1, width=200), layers=layers)
        held_out = [result.separation.d for result in found.values()]
        in_sample = [result.in_sample.d for result in found.values()]
        # One d has a standard error of about 2/√24 = 0.41, the mean of twelve 0.12.
        assert abs(np.mean(held_out)) < 0.4
        assert max(map(abs, held_out)) < 1.5
        assert min(in_sample) > 2.5
        assert min(result.separation.p_adjusted for result in found.values()) > 0.05


class TestPlace:
    LAYERS, SITES = (2, 5, 7), ("mlp_out", "mlp_out_normed", "attn_out")

    @pytest.mark.parametrize("place", [(2, "mlp_out"), (5, "mlp_out_normed"), (7, "attn_out")])
    def test_an_effect_is_found_where_it_is(self, tmp_path, place):
        def tokens(pair, condition, layer, site):
            how = planted(5.0, noise(11)) if (layer, site) == place else noise(11)
            return how(pair, condition, layer, site)

        found = analysed(tmp_path, tokens, layers=self.LAYERS, sites=self.SITES)
        assert set(found) == {(layer, site) for layer in self.LAYERS for site in self.SITES}
        for key, result in found.items():
            assert (result.layer, result.site) == key
            assert (result.separation.d > 2) == (key == place)
            assert (result.in_sample.d > 4) == (key == place)
            assert (result.separation.p_adjusted < 0.05) == (key == place)

    def test_sites_may_have_other_widths(self, tmp_path):
        def tokens(pair, condition, layer, site):
            return noise(12, width=70 if site == "mlp_post" else 40)(pair, condition, layer, site)

        found = analysed(tmp_path, tokens, sites=("mlp_post", "mlp_out"))
        assert len(found) == 2

    def test_ids(self, tmp_path):
        found = analysed(tmp_path, noise(13), layers=(3, 12))
        assert [result.id for result in found.values()] == ["layer_3-mlp_out", "layer_12-mlp_out"]


class TestShort:
    def test_repr(self):
        found = analysis_of(layer_result(0, d=0.02), layer_result(1, d=4.1), layer_result(2, d=1.0))
        assert repr(found) == "Analysis(3 layers and sites, 8 pairs, d 0.02 to 4.10)"

    def test_repr_of_what_is_not_defined(self):
        assert repr(analysis_of(layer_result(d=np.nan))) == "Analysis(1 layer and site, 8 pairs)"


class TestOrder:
    def test_of_the_file_does_not_matter_to_the_last_bit(self, tmp_path):
        content = two_categories(24)
        tokens = planted(1.0, noise(14))
        expected = analysed(tmp_path / "0", tokens)
        for seed in (1, 2):
            chance = random.Random(seed)
            categories = content["alignment_artifact_prompt_pairs"]["categories"]
            for body in categories.values():
                chance.shuffle(body["pairs"])
            shuffled = dict(reversed(categories.items()))
            content["alignment_artifact_prompt_pairs"]["categories"] = shuffled
            pairs = parsed(content)
            found = analysed(
                tmp_path / str(seed),
                tokens,
                pairs,
                batch_size=7,
                order=lambda groups, chance=chance: chance.sample(groups, len(groups)),
            )
            assert found.scored == expected.scored
            for key, result in found.items():
                assert result.separation == expected[key].separation
                assert result.in_sample == expected[key].in_sample


def spoilt(tokens, *names, value=np.nan, condition="artifact", layer=None, step=0):
    """`tokens` with one value that isn't finite in the pairs of these ids."""

    def made(pair, arm, at, site):
        values = tokens(pair, arm, at, site)
        if pair.id in names and arm == condition and layer in (None, at):
            values = values.copy()
            values[step, 0] = value
        return values

    return made


def silent(tokens, *names, condition="natural"):
    """`tokens` without any token in one arm of the pairs of these ids."""

    def made(pair, arm, layer, site):
        values = tokens(pair, arm, layer, site)
        return values[:0] if pair.id in names and arm == condition else values

    return made


def without(*names):
    return replace(PAIRS, pairs=tuple(pair for pair in PAIRS if pair.id not in names))


class TestDropped:
    @pytest.mark.parametrize("condition", ["natural", "artifact"])
    def test_empty_response(self, tmp_path, condition):
        tokens = planted(1.0, noise(15))
        found = analysed(
            tmp_path / "1", silent(tokens, "q05", "q08", condition=condition), layers=(0, 1)
        )
        expected = analysed(tmp_path / "2", tokens, without("q05", "q08"), layers=(0, 1))
        assert {dropped.pair.id for dropped in found.dropped} == {"q05", "q08"}
        assert all("without tokens" in dropped.reason for dropped in found.dropped)
        assert found.scored == expected.scored
        assert len(found.responses) == 24
        for key, result in found.items():
            assert result.separation == expected[key].separation

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite_in_one_layer_is_dropped_in_all(self, tmp_path, value):
        tokens = planted(1.0, noise(16))
        found = analysed(tmp_path / "1", spoilt(tokens, "q03", value=value, layer=1), layers=(0, 1))
        expected = analysed(tmp_path / "2", tokens, without("q03"), layers=(0, 1))
        (dropped,) = found.dropped
        assert dropped.pair.id == "q03"
        assert "NaN" in dropped.reason
        for key, result in found.items():
            assert result.separation == expected[key].separation
            assert result.in_sample == expected[key].in_sample

    def test_not_finite_behind_the_shorter_arm(self, tmp_path):
        """The held-out figures don't see that token, the in-sample ones would."""
        tokens = noise(17, steps=6)

        def made(pair, arm, layer, site):
            values = spoilt(tokens, "q03", step=5)(pair, arm, layer, site)
            return values[:4] if arm == "natural" else values

        found = analysed(tmp_path, made)
        assert [dropped.pair.id for dropped in found.dropped] == ["q03"]
        assert np.isfinite(found[0, "mlp_out"].in_sample.d)

    def test_in_a_run_beside_it(self, tmp_path):
        """A pair that other positions or the base model lack is named, unless it is missing
        everywhere."""
        tokens = planted(1.0, noise(15))
        run, forced, base = (
            run_of(tmp_path / str(number), PAIRS, silent(tokens, *names), layers=(0,))
            for number, names in enumerate([("q05",), ("q05", "q08"), ("q03",)])
        )
        found = analyze(
            run,
            PAIRS,
            layers=(0,),
            sites=("mlp_out",),
            settings=FAST,
            companions={"forced": forced},
            base=base,
        )
        assert [dropped.pair.id for dropped in found.dropped] == ["q05"]
        assert [(dropped.pair.id, dropped.reason) for dropped in found.dropped_beside] == [
            ("q08", "at positions forced: a response without tokens"),
            ("q03", "in the base model: a response without tokens"),
        ]

    def test_a_tenth_may_be_dropped(self, tmp_path):
        names = ("q00", "q01")
        found = analysed(tmp_path, spoilt(noise(18), *names))
        assert len(found.dropped) == 2
        assert found[0, "mlp_out"].separation.n_pairs == 22

    def test_more_than_a_tenth_is_an_error(self, tmp_path):
        with pytest.raises(AnalysisError, match=r"pairs\.json: 3 of 24 pairs hold NaN"):
            analysed(tmp_path, spoilt(noise(18), "q00", "q01", "q02"))

    def test_all_silent(self, tmp_path):
        names = [pair.id for pair in PAIRS]
        with pytest.raises(AnalysisError, match="no pair has a response with tokens"):
            analysed(tmp_path, silent(noise(19), *names))

    def test_fewer_than_eight_pairs(self, tmp_path):
        with pytest.raises(AnalysisError, match=r"pairs\.json: 7 distinct pairs are too few"):
            analysed(tmp_path, noise(20), parsed(two_categories(7)))

    def test_fewer_than_eight_that_are_left(self, tmp_path):
        with pytest.raises(AnalysisError, match="7 distinct pairs are too few"):
            analysed(tmp_path, silent(noise(20), "q00"), parsed(two_categories(8)))


class TestCut:
    def test_pairs_of_unequal_lengths_are_named(self, tmp_path):
        tokens = noise(20)

        def made(pair, condition, layer, site):
            short = (pair.id, condition) in (("q03", "natural"), ("q05", "artifact"))
            return tokens(pair, condition, layer, site)[: 2 if short else 3]

        found = analysed(tmp_path, made, layers=(0, 1))
        assert [pair.id for pair in found.cut] == ["q03", "q05"]
        assert set(found.cut) <= set(found.scored)


class TestDuplicates:
    ENTRIES = tuple(entry(number) for number in range(20))
    AGAIN = entry(
        20, natural="what IS known\n about subject 4?", artifact="What should I DO about subject 4?"
    )

    def test_same_prompts_are_averaged(self, tmp_path):
        pairs = parsed(document({"one": [*self.ENTRIES, self.AGAIN]}))
        tokens = planted(1.0, noise(21))
        found = analysed(tmp_path / "1", tokens, pairs)
        assert found.merged == 1
        assert found[0, "mlp_out"].separation.n_pairs == 20
        assert [pair.id for pair in found.scored] == [e["id"] for e in self.ENTRIES]
        by_id = {pair.id: pair for pair in pairs}

        def averaged(pair, condition, layer, site):
            values = tokens(pair, condition, layer, site)
            if pair.id == "q04":
                # Means of both, in a form that gives the same mean over tokens.
                other = tokens(by_id["q20"], condition, layer, site)
                values = np.concatenate([values, other])
            return values

        expected = analysed(tmp_path / "2", averaged, parsed(document({"one": [*self.ENTRIES]})))
        assert found[0, "mlp_out"].separation.d == pytest.approx(
            expected[0, "mlp_out"].separation.d, abs=1e-5
        )

    def test_same_artifact_prompt_alone_is_no_duplicate(self, tmp_path):
        again = {**self.AGAIN, "natural": "Something else?"}
        found = analysed(tmp_path, noise(21), parsed(document({"one": [*self.ENTRIES, again]})))
        assert found.merged == 0

    def test_same_activations_are_counted_once(self, tmp_path):
        tokens = noise(22)
        same = PAIRS.pairs[2]

        def made(pair, condition, layer, site):
            chosen = same if pair.id in ("q06", same.id) else pair
            return tokens(chosen, condition, layer, site)

        found = analysed(tmp_path, made, layers=(0, 1))
        assert found.merged == 1
        assert all(result.separation.n_pairs == 23 for result in found.values())


class TestPairsOfScores:
    def test_scores_line_up_with_their_pairs(self, tmp_path):
        """One pair lies far out in its artifact arm; others before it are dropped or merged."""
        again = {**entry(24, natural="WHAT is known about subject 1?"), "id": "q01b"}
        again["artifact"] = "what should i do about subject 1?"
        content = two_categories(24)
        content["alignment_artifact_prompt_pairs"]["categories"]["one"]["pairs"].append(again)
        pairs = parsed(content)
        far = planted(60.0, noise(23))
        near = planted(2.0, noise(23))

        for name in ("q02", "q09", "q22", "q23"):

            def tokens(pair, condition, layer, site, name=name):
                how = far if pair.id == name and condition == "artifact" else near
                return how(pair, condition, layer, site)

            found = analysed(tmp_path / name, silent(spoilt(tokens, "q05"), "q00", "q07"), pairs)
            s = found[0, "mlp_out"].separation
            assert len(found.scored) == len(s.scores_artifact) == len(s.scores_natural) == s.n_pairs
            highest = int(np.argmax(s.scores_artifact))
            assert found.scored[highest].id == name
            assert s.scores_artifact[highest] > 3 * np.median(s.scores_artifact)

    def test_responses_belong_to_their_pairs(self, tmp_path):
        found = analysed(tmp_path, noise(24))
        assert [response.pair for response in found.responses] == list(PAIRS)
        for response in found.responses:
            assert response.natural.text == f"answer to {response.pair.group('natural')}"
            assert response.artifact.text == f"answer to {response.pair.group('artifact')}"


class TestDegenerate:
    def test_no_difference_at_all(self, tmp_path):
        found = analysed(tmp_path, lambda pair, _condition, *place: noise(25)(pair, "", *place))
        s = found[0, "mlp_out"].separation
        assert np.isnan(s.d)
        assert (s.accuracy, s.p_value) == (0.5, 1.0)

    def test_same_responses_everywhere(self, tmp_path):
        """Texts that can't be told apart are no reason to fail: the activations can."""

        def tokens(pair, condition, layer, site):
            return planted(3.0, noise(26))(pair, condition, layer, site)

        entries = [
            entry(number, natural=f"Why {'?' * number}", artifact=f"What for {'?' * number}")
            for number in range(1, 25)
        ]
        found = analysed(tmp_path, tokens, parsed(document({"one": entries})))
        assert found[0, "mlp_out"].separation.d > 1
