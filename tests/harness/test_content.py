"""What the page's scripts are given: the right numbers, bounded, and inert."""

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis.tokens import TokenScores
from harness.report.checks import Reported, groups
from harness.report.content import MOST_DOTS, MOST_PAIRS, as_script, page_content
from harness.report.sentences import model_name
from harness.stats import CategoryTransfer, StepSeparation
from tests.support.builders import PAIRS, layer_result, responses, results_of, shown_result
from tests.support.measured import pairs_of
from tests.support.pages import Page

NOTHING = {"d": 0.1, "d_interval": (-0.4, 0.6), "p_adjusted": 0.7}


def with_tokens(found, lengths):
    """Results whose tokens all have the text of their number and a score of 1, 2, 3, …"""
    count = int(np.sum(lengths))
    scores = {key: np.arange(1, count + 1, dtype=np.float32) for key in found}
    tokens = TokenScores(
        found.analysis.scored, np.array(lengths), tuple(f"t{n % 7}" for n in range(count)), scores
    )
    return replace(found, analysis=replace(found.analysis, tokens=tokens))


def unpacked(layer):
    unit, _, packed = layer
    return np.frombuffer(base64.b64decode(packed), "<i2") * unit


class TestScript:
    @pytest.mark.parametrize("text", ["</script><b>", "<!-- <script>", "&amp;\u2028", "\ud800"])
    def test_a_text_cannot_end_it(self, text):
        made = as_script({text: [text]})
        assert not set("<>&\u2028\ud800") & set(made)
        assert json.loads(made) == {text: [text]}

    def test_what_is_not_finite_is_nothing(self):
        assert json.loads(as_script([math.nan, math.inf, 1 / 3])) == [None, None, 0.3333]


class TestTokens:
    def test_each_pair_has_its_own_in_standard_deviations(self):
        artifact = (5.0, 2.0, -3.0, 8.0, 4.0, 6.0, 1.0, 7.0)
        result = layer_result(scores_artifact=artifact, scores_natural=(0.0,) * 8)
        lengths = [[1 + n % 2, 2] for n in range(8)]
        content = page_content(with_tokens(results_of(result), lengths))
        tokens, spread = content["tokens"], np.std(artifact, ddof=1) / math.sqrt(2)
        assert [pair["id"] for pair in content["pairs"]][:2] == ["q2", "q6"]
        assert tokens["lengths"][:2] == [lengths[2], lengths[6]]
        # q2's are the eighth to the tenth of all.
        expected = np.array([8, 9, 10])
        np.testing.assert_allclose(unpacked(tokens["scores"][0])[:3], expected / spread, atol=1e-3)
        assert [tokens["vocabulary"][t] for t in tokens["texts"][:3]] == ["t0", "t1", "t2"]

    def test_pairs_without_a_score_have_none(self):
        found = results_of(
            layer_result(), responses=(*map(responses, pairs_of(1)), *map(responses, PAIRS))
        )
        content = page_content(with_tokens(found, [[2, 2]] * 8))
        assert content["tokens"]["lengths"][-1] is None
        assert content["pairs"][-1]["gaps"] is None

    def test_answers_too_long_for_the_page_are_left_out(self):
        content = page_content(
            with_tokens(results_of(layer_result()), [[9000, 9000], *[[2, 2]] * 7])
        )
        lengths = {
            p["id"]: n for p, n in zip(content["pairs"], content["tokens"]["lengths"], strict=True)
        }
        assert lengths["q0"] == [9000, 9000]
        content = page_content(
            with_tokens(results_of(layer_result()), [[9000, 99000], *[[2, 2]] * 7])
        )
        lengths = {
            p["id"]: n for p, n in zip(content["pairs"], content["tokens"]["lengths"], strict=True)
        }
        assert lengths["q0"] is None
        assert lengths["q1"] == [2, 2]


def large(layers, sites, n=65):
    """A run in which everything fails, with all that a page shows."""
    rng = np.random.default_rng(0)
    pairs = pairs_of(n, ("one", "two", "three", "four", "five"))
    results = [
        replace(
            layer_result(
                layer, site, **NOTHING, n_pairs=n,
                scores_artifact=tuple(rng.standard_normal(n)),
                scores_natural=tuple(rng.standard_normal(n)),
            ),
            transfer=tuple(
                CategoryTransfer(c, 0.1, (-1.0, 1.0), 0.5, 13, 13, 0.4, 1.0) for c in "abcde"
            ),
            steps=tuple(StepSeparation(t, *[0.1] * 6, n, 0.001, 0.002) for t in range(20)),
        )
        for site in sites
        for layer in range(layers)
    ]  # fmt: skip
    found = results_of(
        *results, scored=pairs, responses=tuple(responses(p, "so " * 20, "no " * 20) for p in pairs)
    )
    return with_tokens(found, [[20, 20]] * n)


class TestSize:
    def test_26_layers_of_3_sites_are_a_page_of_3_megabytes(self):
        page = large(26, ("mlp_out", "attn_out", "resid_post")).page()
        assert len(page.encode()) < 3e6

    def test_thousands_of_pairs_are_no_larger(self):
        content = page_content(large(2, ("mlp_out",), n=5000))
        assert len(content["pairs"]) == MOST_PAIRS == len(content["tokens"]["lengths"])
        assert len(content["dots"]) == len(content["layers"][0]["natural"]) == MOST_DOTS
        assert len(as_script(content)) < 3e5


class TestLikeFailures:
    def test_are_told_once(self):
        found = results_of(*(layer_result(n, **{**NOTHING, "d": n / 10}) for n in range(5)))
        first = groups(found)[0]
        assert (first.check, first.words, first.of) == ("test_effect_size", "doesn't", 5)
        assert first.layers == tuple(f"layer_{n}-mlp_out" for n in range(5))
        assert first.span == "d 0.00 to 0.40"
        page = found.page()
        assert page.count(first.explanation.split(":")[0]) > 1
        assert "test_effect_size</code> doesn&#39;t in 5 of 5" in page

    def test_with_the_figure_that_decided(self):
        """Of the same words, not of the layer."""
        forced = replace(layer_result().separation, d=0.03, d_lower=-0.2, d_interval=(-0.1, 0.2))
        found = groups(results_of(replace(layer_result(d=5.0), companions={"forced": forced})))
        (words,) = (group for group in found if group.check == "test_same_words")
        assert words.span == "d 0.03"

    def test_what_holds_comes_last(self):
        found = groups(results_of(layer_result(0), layer_result(1, **NOTHING)))
        assert [group.outcome == "passed" for group in found] == sorted(
            g.outcome == "passed" for g in found
        )

    def test_those_of_others_are_in_pytests_words(self):
        reports = [Reported("test_mine", f"layer_{n}-mlp_out", "failed", "<b>no") for n in (0, 1)]
        page = results_of(layer_result(0), layer_result(1)).page(reports)
        assert "test_mine</code> failed in 2 of 2" in page
        assert "&lt;b&gt;no" in page
        assert "layer 1: failed" in page


class TestHead:
    def test_says_what_was_run(self):
        facts = {
            "model": "a/model", "model_fingerprint": "f" * 64, "revision": "v2",
            "adapter": "mine", "adapter_fingerprint": "e" * 64,
            "base_model": "a/base", "base_fingerprint": "d" * 64, "pairs_file": "p.json",
            "collection": {"positions": "generated", "max_tokens": 20},
            "date": "2030-01-01T00:00:00+00:00",
        }  # fmt: skip
        found = results_of(shown_result(0), provenance=facts)
        assert model_name(found.analysis) == "a/model with mine (ffffffff)"
        page = Page(found.page())
        for said in (
            "a/model with mine (ffffffff): alignment artifacts", "model a/model (ffffffff)",
            "revision v2", "adapter mine (eeeeeeee)", "base model a/base (dddddddd)",
            "pairs p.json, n = 8 pairs",
            "date 2030-01-01 00:00:00 UTC", "positions generated, 20 tokens at most",
        ):  # fmt: skip
            assert said in page.text, said
        assert page.text.count("a/model with mine (ffffffff)") >= 2 + len(page.figures)

    def test_says_where_no_base_model_was_asked(self):
        found = results_of(layer_result(), provenance={"model": "m", "base_model": None})
        assert "base model none was asked" in Page(found.page()).text

    def test_strip_has_a_word_for_every_claim_and_layer(self):
        page = Page(results_of(shown_result(0), layer_result(1, **NOTHING)).page())
        said = [
            value for key, value in page.attributes if key == "title" and value.startswith("layer ")
        ]
        assert said[:12] == [
            "layer 0: separates", "layer 1: doesn't",
            "layer 0: holds", "layer 1: doesn't",
            *["layer 0: holds", "layer 1: not asked"] * 2,
            *["layer 0: not asked", "layer 1: not asked"] * 2,
        ]  # fmt: skip
        assert "✓" not in page.text
        assert "✗" not in page.text
