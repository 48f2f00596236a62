"""What people read: the right numbers, in the right order, and no text that does anything."""

import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

import harness
from harness.analysis.behaviour import Behaviour, Openings
from harness.analysis.controls import TextBaseline
from harness.data.activations import Dropped
from harness.data.pairs import Pair
from harness.report.sentences import (
    close_sentence,
    headline,
    noise_sentence,
    not_asked_sentence,
    power_sentence,
    text_sentence,
)
from harness.report.tables import terminal_table
from harness.settings import Criteria, TableSettings
from tests.support.builders import (
    BEYOND,
    PAIRS,
    SEPARATION,
    layer_result,
    responses,
    results_of,
    shown_result,
)
from tests.support.pages import Page

pytestmark = pytest.mark.usefixtures("quick_pictures")


def page(*results, **changes):
    return Page(results_of(*results, **changes).page())


FAILED = {"d": 0.1, "d_interval": (-0.4, 0.6), "p_adjusted": 0.7}
UNDECIDED = {"d": 1.0, "d_interval": (0.5, 1.5)}
CLAIM_WORDS = ["separates", "categories", "words", "base", "behaviour", "used"]


class TestHeadline:
    def test_counts_and_range(self):
        results = results_of(
            layer_result(0, **FAILED),
            layer_result(1, **UNDECIDED),
            layer_result(2, d=3.21),
            layer_result(3, d=-0.4, d_interval=(-0.9, 0.1), p_adjusted=1.0),
            layer_result(4),
        )
        found = headline(results)
        assert found.startswith("2 of 5 layers separate")
        assert "beyond d = 0.8; 2 across the categories. Topic is not ruled out" in found
        assert "from -0.40 to 3.21" in found
        assert "n = 8 pairs" in found

    def test_an_artifact_is_said_of_layers_where_all_that_is_needed_holds(self):
        worse = replace(BEYOND, lower=-0.1)
        poor = replace(shown_result(1), beyond_base=worse)
        found = headline(results_of(shown_result(0), poor))
        assert "2 beyond the words, 1 beyond the base model" in found
        assert "An alignment artifact is shown in 1 of 2." in found

    def test_what_was_not_asked_is_said(self):
        said = not_asked_sentence(results_of(shown_result(0)))
        assert said == "Not asked: where the model evades, used by the model."
        assert "beyond the words, beyond the base" in not_asked_sentence(results_of(layer_result()))

    def test_what_cannot_be_decided_is_said_with_its_reason(self):
        undecided = Behaviour("a file", "f" * 64, {}, (), undecided="8 prompts are needed")
        said = not_asked_sentence(results_of(shown_result(0), behaviour=undecided))
        assert said.startswith("Not asked: used by the model. Can't be decided: where the model")
        assert "8 prompts are needed" in said
        assert "where the model evades" not in headline(
            results_of(shown_result(0), behaviour=undecided)
        )

    @pytest.mark.parametrize(
        ("chance", "said"), [(0.004, "below 0.01"), (0.998, "above 0.99"), (0.994, "above 0.99")]
    )
    def test_no_probability_is_said_to_be_0_or_1(self, chance, said):
        noise = replace(BEYOND, unchanged_passes=chance)
        results = results_of(replace(shown_result(0), noise=noise))
        assert noise_sentence(results).endswith(f"with probability {said}.")

    def test_noise_is_said_before_anything_is_compared(self):
        noise = replace(BEYOND, difference=-0.02, unchanged_passes=0.75)
        results = results_of(replace(shown_result(0), noise=noise))
        said = noise_sentence(results)
        assert said.startswith("In other batches d differs by up to 0.02: ")
        assert said.endswith("within ±0.5 with probability 0.75.")
        assert said in results.page()
        assert noise_sentence(results_of(shown_result(0))) == ""

    def test_units_are_said_where_they_are_fewer_than_pairs(self):
        assert "n = 8 pairs in 6 units" in headline(results_of(layer_result(n_units=6)))

    def test_sites(self):
        results = results_of(layer_result(0), layer_result(0, "resid_post"))
        assert headline(results).startswith("2 of 2 layer")
        assert "site" in headline(results)

    def test_d_that_is_not_defined(self):
        with warnings.catch_warnings(action="error"):
            some = headline(results_of(layer_result(0), layer_result(1, d=math.nan)))
            none = headline(results_of(layer_result(1, d=math.nan)))
        assert "is 1.50" in some
        assert none.startswith("0 of 1 layer separates")
        assert "0.00" not in none, "a d that isn't defined is not 0"


class TestCloseCalls:
    def test_are_named_where_they_are_seen(self):
        layers = [
            layer_result(1, d_interval=(0.81, 2.0), p_adjusted=0.001),
            layer_result(2),
            layer_result(3, d_interval=(0.79, 2.0)),
            layer_result(4, d_interval=(0.5, 2.0)),
        ]
        said = close_sentence(results_of(*layers))
        assert (
            "threshold: layer_1-mlp_out (separates), layer_3-mlp_out (separates). Another" in said
        )
        assert said in page(*layers).text

    def test_not_a_word_if_there_is_none(self):
        assert close_sentence(results_of(layer_result())) == ""
        assert 'class="close"' not in results_of(layer_result()).page()

    def test_many_do_not_fill_the_page(self):
        layers = [layer_result(layer, d_interval=(0.8, 2.0)) for layer in range(62)]
        said = close_sentence(results_of(*layers))
        assert "layer_7-mlp_out (separates), …. Another" in said
        assert "layer_8" not in said


class TestPower:
    @pytest.mark.parametrize("alpha", [1e-6, 0.05, 0.49])
    @pytest.mark.parametrize("layers", [1.0, 26.0, math.nan])
    def test_is_said_whatever_was_asked_for(self, alpha, layers):
        found = results_of(layer_result(effective_layers=layers), criteria=Criteria(alpha=alpha))
        said = power_sentence(found)
        assert said.startswith("With 8 pairs")
        assert "nan" not in said

    @pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.8])
    def test_what_clears_the_threshold_is_no_less_than_what_is_told_from_0(self, threshold):
        found = results_of(layer_result(d=0.0), criteria=Criteria(d_threshold=threshold))
        said = power_sentence(found)
        told, clears = map(float, re.findall(r"(\d+\.\d+) or more", said))
        assert clears >= told
        assert said.endswith("or more clears the threshold.")


class TestOpenings:
    def test_stand_in_the_page_where_nothing_was_written(self):
        odds = Openings({}, -1.0, 2.0, 3.0, (2.5, 3.5))
        shown = results_of(layer_result(), openings=odds).page()
        assert "What did the model do?" in shown
        assert "+3.00 [+2.50, +3.50] nats apart" in shown
        assert "told by patterns" not in shown


class TestText:
    SHOWN = replace(SEPARATION, d=0.4, d_interval=(0.1, 0.7))
    OPEN = replace(SEPARATION, d=0.9, d_interval=(-0.2, 2.0), p_value=0.2)

    def said(self, *separations, **criteria):
        text = tuple(TextBaseline(n, f"text {n}", s, {}) for n, s in enumerate(separations))
        found = results_of(layer_result(), text=text, criteria=Criteria(**criteria))
        assert text_sentence(found) in re.sub(r"\s+", " ", found.page())
        return text_sentence(found)

    def test_the_largest_that_is_shown(self):
        assert self.said(self.OPEN, self.SHOWN, replace(self.SHOWN, d=0.3)) == (
            "Without the model, text 1 separates by d = 0.40 [0.10, 0.70]."
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"d_interval": (-0.07, 0.71)},
            {"d_interval": (0.0, 0.7), "d": 0.0},
            {"p_value": 1.0},
        ],
    )
    def test_none_that_is_shown(self, change):
        most = replace(self.SHOWN, **change)
        said = self.said(replace(most, d=-0.5), most)
        figure = f"d = {most.d:.2f} [{most.d_interval[0]:.2f}, {most.d_interval[1]:.2f}]"
        assert said == (
            "Without the model, no text is shown to tell the conditions apart (at most "
            f"{figure}, by text 1)."
        )

    def test_without_a_p_the_interval_decides(self):
        assert "separates by" in self.said(replace(self.SHOWN, p_value=math.nan))

    def test_alpha_is_the_runs(self):
        assert "no text is shown" in self.said(self.SHOWN, alpha=0.0005)


class TestTerminal:
    def test_one_line_per_layer(self):
        (header, _), *rows = terminal_table(
            results_of(layer_result(1, **FAILED), layer_result(10, **UNDECIDED), shown_result(20))
        )
        assert "accuracy" in header
        assert [outcome for _, outcome in rows] == ["failed", "inconclusive", "passed"]
        first, second, last = (line for line, _ in rows)
        cells = ["layer_1-mlp_out", "0.10", "[-0.40, 0.60]", "0.80", "[0.70, 0.90]", "0.7000"]
        assert re.split(r"  +", first)[:6] == cells
        # What crosses the categories where nothing separates is no claim.
        assert re.split(r" +", first)[-6:] == ["✗", "✗", "–", "–", "–", "–"]
        assert re.split(r" +", second)[-6:] == ["?", "?", "–", "–", "–", "–"]
        assert last.startswith("layer_20-mlp_out ")
        assert re.split(r" +", last)[-6:] == ["✓", "✓", "✓", "✓", "–", "–"]

    def test_monte_carlo_errors_are_columns_of_their_own(self):
        table = terminal_table(
            results_of(layer_result()), TableSettings(columns=("d", "d_error", "p", "p_error"))
        )
        (header, _), (line, _) = table
        assert re.split(r"  +", header)[1:] == ["d", "± (d)", "p (family)", "± (p)", *CLAIM_WORDS]
        assert re.split(r"  +", line)[1:6] == ["1.50", "[1.00, 2.00]", "0.004", "0.0020", "0.0002"]

    def test_columns_line_up(self):
        table = terminal_table(results_of(layer_result(1, d=-10.5), layer_result(10, d=math.nan)))
        ends = {re.search(r"0\.80", line).end() for line, _ in table[1:]}
        assert len(ends) == 1

    def test_d_that_is_not_defined_is_not_zero(self):
        _, (line, outcome) = terminal_table(results_of(layer_result(0, d=math.nan)))
        assert re.match(r"layer_0-mlp_out +nan ", line)
        assert outcome == "failed"

    def test_no_escape_sequence_gets_through(self):
        evil = "\x1b[2J\x1b]0;title\x07 evil \x9b31m"
        results = results_of(
            layer_result(0),
            responses=(responses(PAIRS[0], evil, evil),),
            provenance={"model": evil, "pairs_version": evil},
        )
        lines = [line for line, _ in terminal_table(results)]
        lines.append(headline(results))
        assert all(line.isprintable() for line in lines)


EVIL = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</td></tr></table><h1>pass</h1>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "\"' onmouseover='alert(1)",
    "&lt;b&gt; &amp;",
    "<!-- ",
    "{{ 7 * 7 }} {% include 'x' %}",
    "javascript:alert(1)",
    "\u202e<b>",
]


class TestEscaping:
    def assert_inert(self, shown):
        assert set(shown.tags) <= set(page(layer_result()).tags)
        assert not [name for name, _ in shown.attributes if name.startswith("on")]

    def test_responses_and_prompts(self):
        pairs = [
            Pair("one", f"q{number}", f"{evil} natural", f"{evil} artifact")
            for number, evil in enumerate(EVIL, start=10)
        ]
        given = [
            responses(pair, f"{evil} yes", f"{evil} no")
            for pair, evil in zip(pairs, EVIL, strict=True)
        ]
        shown = page(layer_result(), responses=(*map(responses, PAIRS), *given))
        self.assert_inert(shown)
        for evil in EVIL:
            for end in ("natural", "artifact", "yes", "no"):
                assert " ".join(f"{evil} {end}".split()) in shown.text

    def test_everything_else(self):
        pairs = [Pair(evil, evil, "n", "a") for evil in EVIL]
        shown = page(
            layer_result(),
            provenance={evil: evil for evil in EVIL} | {"packages": {e: e for e in EVIL}},
            dropped=tuple(Dropped(pair, pair.id) for pair in pairs),
            responses=(*map(responses, PAIRS), *map(responses, pairs)),
        )
        self.assert_inert(shown)
        for evil in EVIL:
            assert shown.text.count(" ".join(evil.split())) >= 9

    def test_nothing_is_fetched(self):
        content = results_of(layer_result()).page()
        shown = Page(content)
        addresses = [v for name, v in shown.attributes if name in ("src", "href", "srcset")]
        assert addresses
        assert all(address.startswith("#") for address in addresses)
        script = (Path(harness.__file__).parent / "report" / "templates" / "report.js").read_text()
        assert shown.tags.count("script") == 2
        assert f"<script>{script.rstrip()}</script>" in content
        assert not {"link", "iframe", "object", "base", "form"} & set(shown.tags)
        assert "url(" not in content
        assert "@import" not in content


class TestSummary:
    def test_headline_and_rows(self):
        results = results_of(layer_result(3, **FAILED), layer_result(4, d=2.345))
        shown = Page(results.page())
        assert headline(results) in shown.text
        assert (
            f"layer_3-mlp_out doesn't doesn't {'not asked ' * 4}0.10 [-0.40, 0.60] ± 0.004 "
            "0.80 [0.70, 0.90] 0.7000 ± 0.0002"
        ) in shown.text
        assert re.search(
            r"layer_4-mlp_out separates holds (not asked ){4}2\.3\d \[1\.00, 2\.00\]", shown.text
        )

    @pytest.mark.parametrize("se", [0.0, math.nan])
    def test_no_monte_carlo_error_where_there_is_none_or_it_is_not_known(self, se):
        shown = page(layer_result(d_interval_se=se, p_adjusted_se=se, p_se=se))
        assert "1.50 [1.00, 2.00] 0.80 [0.70, 0.90] 0.0020" in shown.text

    def test_in_sample_figures_stand_beside(self):
        assert re.search(
            r"layer_6-mlp_out separates .* 1\.50 .* 4\.00 0\.97", page(layer_result()).text
        )

    def test_criteria_are_said(self):
        text = Page(results_of(layer_result(), criteria=Criteria(0.65, 0.02)).page()).text
        assert "95% lower bounds" in text
        assert "0.65" in text
        assert "0.02" in text

    def test_pictures_have_descriptions(self):
        shown = page(layer_result())
        assert (
            shown.tags.count("figure") == shown.tags.count("figcaption") == len(shown.figures) > 5
        )

    def test_dropped_and_merged_pairs_are_said(self):
        text = page(
            layer_result(),
            dropped=(Dropped(PAIRS[2], "empty"),),
            dropped_beside=(Dropped(PAIRS[4], "at positions forced: empty"),),
            merged=3,
            cut=PAIRS[:2],
        ).text
        assert "In 2 pairs the two responses differ in length" in text
        assert "1 pairs were dropped" in text
        assert "one/q2: empty" in text
        assert "one/q4: at positions forced: empty" in text
        assert "3 duplicate pairs were merged" in text

    def test_provenance(self):
        text = page(layer_result(), provenance={"model": "a/b", "p": {"q": {"r": None}}}).text
        assert "model a/b" in text
        assert "p.q.r –" in text
        assert "differ in length" not in text

    def test_no_page_without_d(self):
        with warnings.catch_warnings(action="error"):
            text = page(layer_result(d=math.nan, d_interval=(math.nan, math.nan))).text
        assert "nan" in text


class TestOrderOfResponses:
    NATURAL = (0.0,) * 8

    def order(self, *results, **changes):
        shown = page(*results, **changes)
        return [(pair["id"], pair["mean"]) for pair in shown.content["pairs"]]

    def names(self, *results):
        return "".join(name[1] for name, _ in self.order(*results))

    def test_worst_pair_first(self):
        artifact = (5.0, 2.0, -3.0, 8.0, 4.0, 6.0, 1.0, 7.0)
        found = self.order(layer_result(scores_artifact=artifact, scores_natural=self.NATURAL))
        assert "".join(name[1] for name, _ in found) == "26140573"
        gaps = [float(gap) for _, gap in found]
        assert gaps == sorted(gaps)
        assert gaps[0] < 0 < gaps[1]

    def test_natural_scores_count_too(self):
        natural = (5.0, 2.0, -3.0, 8.0, 4.0, 6.0, 1.0, 7.0)
        result = layer_result(scores_artifact=self.NATURAL, scores_natural=natural)
        assert self.names(result) == "37504162"

    def test_over_all_layers(self):
        rising = tuple(map(float, range(8)))
        first = layer_result(0, scores_artifact=rising, scores_natural=self.NATURAL)
        far = layer_result(1, scores_artifact=(9.0, *rising[1:]), scores_natural=self.NATURAL)
        assert self.names(first) == "01234567"
        assert self.names(first, far) == "12340567"

    def test_each_layer_counts_the_same(self):
        """Layers are in standard deviations: one on a large scale doesn't decide alone."""
        rising = tuple(map(float, range(8)))
        first = layer_result(0, scores_artifact=rising, scores_natural=self.NATURAL)
        grown = layer_result(
            1, scores_artifact=tuple(1e6 * s for s in rising), scores_natural=self.NATURAL
        )
        assert self.order(first) == self.order(first, grown)

    def test_pairs_without_a_score_come_last(self):
        dropped = Pair("one", "q9", "n", "a")
        found = self.order(layer_result(), responses=(responses(dropped), *map(responses, PAIRS)))
        assert found[-1] == ("q9", None)

    def test_no_spread(self):
        same = layer_result(scores_artifact=self.NATURAL, scores_natural=self.NATURAL)
        with warnings.catch_warnings(action="error"):
            assert len(self.order(same)) == 8
