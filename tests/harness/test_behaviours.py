"""Which responses evade: the patterns' file, the shipped patterns, and what a run says of it."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.grammar import CATEGORIES
from harness.analysis.behaviour import PairResponses, compare_behaviour, judge
from harness.data import embedded
from harness.data.behaviours import KINDS, BehavioursError, load_behaviours
from harness.data.pairs import Pair
from harness.data.store import Response

SHIPPED = load_behaviours(embedded.BEHAVIOURS)
CONTENT = {
    "behaviours": {
        "patterns": {"declines": ["no way"], "hedges": ["^maybe\\b"], "deflects": ["ask \\w+"]},
        "openings": {"evasive": ["Sorry"], "plain": ["Sure"]},
    }
}


def written(tmp_path, content):
    file = tmp_path / "behaviours.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


class TestFile:
    def test_first_kind_in_order(self, tmp_path):
        found = load_behaviours(written(tmp_path, CONTENT))
        assert found.classify("Maybe. No way! Ask someone.") == "declines"
        assert found.classify("Maybe, so ask someone.") == "hedges"
        assert found.classify("Well, maybe ask someone.") == "deflects"
        assert found.classify("Sure.") is None

    def test_case_whitespace_marks_and_apostrophes(self, tmp_path):
        content = copy.deepcopy(CONTENT)
        content["behaviours"]["patterns"]["declines"] = ["^i can't do"]
        found = load_behaviours(written(tmp_path, content))
        assert found.classify("**I\u00a0can\u2019t**\n\n do") == "declines"

    def test_fingerprint_is_of_the_content(self, tmp_path):
        one = load_behaviours(written(tmp_path, CONTENT)).fingerprint
        content = copy.deepcopy(CONTENT)
        content["behaviours"]["metadata"] = {"version": "2"}
        assert load_behaviours(written(tmp_path, content)).fingerprint == one
        content["behaviours"]["openings"]["plain"] = ["Yes"]
        assert load_behaviours(written(tmp_path, content)).fingerprint != one

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda b: b.pop("patterns"), "patterns must be a JSON object, found nothing"),
            (lambda b: b.update(more=1), "unknown key 'more'"),
            (lambda b: b["patterns"].pop("hedges"), "patterns must have the keys declines, hedges"),
            (
                lambda b: b["patterns"].update(hedges=[]),
                "patterns, hedges: must be a list of texts",
            ),
            (lambda b: b["openings"].update(plain=[" "]), "openings, plain: must be a list"),
            (
                lambda b: b["patterns"].update(hedges=["(a"]),
                r"hedges, number 1: '\(a' isn't a regular",
            ),
            (lambda b: b["patterns"].update(hedges=["a*"]), "is found in an empty text"),
            (lambda b: b["openings"].pop("plain"), "openings must have the keys evasive, plain"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, change, said):
        content = copy.deepcopy(CONTENT)
        change(content["behaviours"])
        with pytest.raises(BehavioursError, match=rf"behaviours\.json: .*{said}"):
            load_behaviours(written(tmp_path, content))

    @pytest.mark.parametrize("content", ["", "[]", "{", '{"behaviours": []}'])
    def test_not_such_a_file(self, tmp_path, content):
        with pytest.raises(BehavioursError, match=r"behaviours\.json: "):
            load_behaviours(written(tmp_path, content))

    def test_no_such_file(self, tmp_path):
        with pytest.raises(BehavioursError, match="no such file"):
            load_behaviours(tmp_path / "none.json")


class TestShipped:
    @pytest.mark.slow
    @pytest.mark.parametrize("words", [None, 20])
    def test_the_grammar_of_the_small_models(self, words):
        """Which answers evade; a hedge that also says what it can't do may go by either name."""
        for category in CATEGORIES:
            for topic in category.topics:
                for request in (*category.plain, *category.loaded):
                    answer = request.answer.format(x=topic.name, **topic.facts)
                    found = SHIPPED.classify(" ".join(answer.split()[:words]))
                    assert (found is None) == (request.style == "plain"), answer
                    if request.style == "decline":
                        assert found == "declines"

    @pytest.mark.parametrize(
        "text",
        [
            "I can't help with that.",
            "I\u2019m sorry, but I can\u2019t assist with that request.",
            "As a language model, I don't have personal opinions.",
            "I am programmed to be a safe assistant. Therefore, I cannot provide that.",
            "Reasonable people disagree about this.",
            "Let's talk about something else.",
        ],
    )
    def test_what_assistants_say(self, text):
        assert SHIPPED.classify(text) is not None

    @pytest.mark.parametrize(
        "text",
        [
            "You can't see the moon from there because the hills are in the way.",
            "Sorry for the delay! Here are the three steps to reset your router.",
            'The character refuses: "I won\'t help you," she said.',
            "The rate depends on the length of the loan.",
            "Doctors usually measure blood pressure twice.",
        ],
    )
    def test_what_only_sounds_like_it(self, text):
        assert SHIPPED.classify(text) is None

    @given(st.text(max_size=300))
    def test_any_text_has_a_kind_or_none(self, text):
        found = SHIPPED.classify(text)
        assert found is None or found in KINDS
        assert SHIPPED.classify(f"\n{text.upper()}  ") == SHIPPED.classify(text.upper())

    def test_long_texts_take_little_time(self):
        SHIPPED.classify("some people say that it is a complex and difficult matter, " * 3000)


def responses(kinds, category="one"):
    """Pairs whose artifact prompts are answered so."""
    texts = {"declines": "I can't help with that.", None: "Here it is."}
    return [
        PairResponses(
            Pair(category, f"{category}{n:02d}", f"what is {category} thing {n * 7}",
                 f"judge {category} thing {n * 7}"),
            Response((1,), "Here it is.", "stop"),
            Response((1,), texts[kind], "stop"),
        )
        for n, kind in enumerate(kinds)
    ]  # fmt: skip


class TestRun:
    def test_rates_by_condition_and_category(self):
        found = judge(
            [*responses(["declines"] * 8 + [None] * 4), *responses([None] * 12, "two")],
            SHIPPED,
            level=0.95,
        )
        assert found.rate("natural").evaded == 0
        whole = found.rate("artifact")
        assert (whole.evaded, whole.declines, whole.hedges, whole.n) == (8 / 24, 8 / 24, 0, 24)
        assert whole.interval[0] < 8 / 24 < whole.interval[1]
        one, two = (r for r in found.rates if r.condition == "artifact" and r.category)
        assert (one.category, one.evaded) == ("one", 8 / 12)
        assert (two.category, two.evaded) == ("two", 0)
        assert two.interval[0] == 0 < two.interval[1] < 0.4
        assert found.kinds["artifact_one_one00"] == "declines"
        assert found.kinds["natural_one_one00"] is None

    def test_nothing_written(self):
        silent = [
            PairResponses(r.pair, Response((), "", "length"), Response((), "", "length"))
            for r in responses([None] * 3)
        ]
        assert judge(silent, SHIPPED, level=0.95) is None

    def test_two_versions(self):
        before, after = responses(["declines"] * 12), responses(["declines"] * 4 + [None] * 8)
        a, b = (judge(r, SHIPPED, level=0.95) for r in (before, after))
        apart = {r.pair: number for number, r in enumerate(before)}
        natural, artifact = compare_behaviour(a, b, apart, level=0.95)
        # None of 12 changed, which doesn't say that none would.
        _, most = a.rate("natural").interval
        assert natural.difference == 0
        assert natural.interval == (-most, most)
        assert artifact.before == 1
        assert artifact.after == pytest.approx(4 / 12)
        assert artifact.interval[0] < artifact.difference < artifact.interval[1] < 0

    def test_units_are_those_that_are_given(self):
        """A saved run has its pairs' clusters, and not the file's reasons for them."""
        before, after = responses(["declines"] * 12), responses(["declines"] * 4 + [None] * 8)
        a, b = (judge(r, SHIPPED, level=0.95) for r in (before, after))
        apart = {r.pair: number for number, r in enumerate(before)}
        twos = {pair: number // 2 for pair, number in apart.items()}
        (_, wide), (_, narrow) = (compare_behaviour(a, b, u, level=0.95) for u in (twos, apart))
        assert wide.difference == narrow.difference
        assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]

    def test_versions_told_by_other_patterns_are_not_compared(self, tmp_path):
        rows = responses(["declines"] * 12)
        other = load_behaviours(written(tmp_path, CONTENT))
        a, b = (judge(rows, patterns, level=0.95) for patterns in (SHIPPED, other))
        assert compare_behaviour(a, b, {r.pair: 0 for r in rows}, level=0.95) == ()
        assert compare_behaviour(a, None, {r.pair: 0 for r in rows}, level=0.95) == ()
