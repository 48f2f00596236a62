"""What is said of a set of pairs before a model runs."""

import json
import re
from pathlib import Path

import pytest

from harness.analysis.screening import screen
from harness.cli import main
from harness.data.clusters import find_clusters
from harness.data.pairs import load_pairs
from harness.report.pairs_page import verdict
from harness.settings import AnalysisSettings, Criteria
from harness.stats import separation, smallest_detectable_effect, text_lengths
from tests.support.builders import document, entry, parsed, written
from tests.support.texts import ROOT

pytestmark = pytest.mark.filterwarnings("error")
FEW = AnalysisSettings(replicates=200)
# Topics that share no word, and what is asked about them.
TOPICS = [f"{a}{b}" for a in ("tax", "rent", "lock", "salt", "fish", "coal") for b in "abcdefgh"]


def asked(number, topic, **changes):
    """Prompts of the same words and length, on a topic of their own."""
    words = f"{topic} {topic}one {topic}two"
    first, second = ("explain", "judge") if number % 2 else ("judge", "explain")
    return entry(
        number,
        natural=f"Please explain and don't judge {words}, {first} {second}",
        artifact=f"Please judge and don't explain {words}, {first} {second}",
        **changes,
    )


def categories(count, each, change=lambda number: {}):
    topics = iter(TOPICS)
    numbers = iter(range(count * each))
    return {
        f"c{c}": [{**asked(n := next(numbers), next(topics)), **change(n)} for _ in range(each)]
        for c in range(count)
    }


def screened(content, **options):
    return screen(parsed(document(content)), settings=FEW, **options)


def said(found, weight=None):
    return [p.said for p in found.problems if weight in (None, p.weight)]


class TestNothingWrong:
    def test_matched_pairs_in_many_categories(self):
        found = screened(categories(6, 8))
        assert said(found) == []
        assert (found.n_pairs, found.n_units, found.n_units_alike) == (48, 48, 48)
        assert [text.separation for text in found.texts] == [None, None]
        assert [c.units for c in found.categories] == [8] * 6
        assert found.categories[0].detectable == smallest_detectable_effect(8)

    def test_what_so_many_units_can_show(self):
        one, many = screened(categories(6, 8), layers=20).reach
        assert one.detectable == smallest_detectable_effect(48)
        assert many.detectable == smallest_detectable_effect(48, layers=20)
        assert many.passing > one.passing > one.detectable + 0.8
        (lower, _) = screened(categories(6, 8), criteria=Criteria(d_threshold=0)).reach
        assert one.passing - 0.8 > lower.passing > lower.detectable
        for reach in screened(categories(6, 8), criteria=Criteria(d_threshold=-1)).reach:
            assert reach.passing == reach.detectable


class TestUnits:
    def test_pairs_of_one_cluster_are_one_and_said_why(self):
        found = screened(categories(6, 8, lambda n: {"cluster": str(n - n % 2)}))
        assert found.n_units == 24
        assert said(found, "wrong") == []
        assert "48 pairs are 24 units" in said(found)[0]
        assert "24 times the same cluster of the file" in said(found)[0]

    def test_pairs_that_read_alike_are_not_put_together_in_silence(self):
        content = categories(6, 8)
        alike = content["c0"][1]
        for arm in ("natural", "artifact"):
            # A third of the telling words.
            alike[arm] = alike[arm].replace("taxb taxbone", "taxa taxaone")
        found = screened(content)
        assert (found.n_units, found.n_units_alike) == (48, 47)
        assert "Put together they are 47, not 48." in said(found)[0]

    @pytest.mark.parametrize(
        ("cluster", "message"),
        [
            (lambda n: str(n % 7), "48 pairs are 7 units: nothing is estimated from fewer than 8"),
            (lambda n: str(max(n, 24)), "One unit holds 25 of the 48 pairs"),
            (lambda n: str(n % 19), "48 pairs are 19 units: intervals are less reliable below 20"),
        ],
    )
    def test_too_few_or_one_too_large(self, cluster, message):
        found = screened(categories(6, 8, lambda n: {"cluster": cluster(n)}))
        assert any(message in each for each in said(found))
        refused = "less reliable" not in message
        assert any(p.weight == "wrong" and message in p.said for p in found.problems) == refused


class TestCategories:
    def test_too_few_of_them(self):
        found = screened(categories(4, 8))
        assert "it takes 5 categories" in said(found, "wrong")[0]

    def test_a_cluster_that_lies_in_two_joins_them(self):
        shared = lambda n: {"cluster": "x"} if n in (0, 39) else {}  # noqa: E731
        assert said(screened(categories(5, 8)), "wrong") == []
        (told,) = said(screened(categories(5, 8, shared)), "wrong")
        assert "share no cluster" in told
        assert told.endswith("here are 5, which shared clusters join into 4.")
        assert said(screened(categories(4, 8)), "wrong")[0].endswith("here are 4.")

    def test_one_prompt_that_all_share(self):
        found = screened(categories(5, 5, lambda _: {"artifact": "The same."}))
        few, joined = said(found, "wrong")
        assert few.startswith("25 pairs are 1 unit: ")
        assert joined.endswith("here are 5, which shared clusters join into 1.")
        assert verdict(found).startswith("25 pairs, 1 unit, 5 categories: ")

    def test_too_small_ones_are_named(self):
        content = categories(6, 8)
        del content["c1"][2:], content["c2"][5:]
        few, small = said(screened(content))
        assert few.endswith("have fewer than 3 pairs, and get no figure of their own: c1.")
        assert small.endswith("too few for a claim about them alone: c2.")


class TestText:
    def test_length_is_what_the_statistics_say(self):
        content = categories(6, 8)
        for body in content.values():
            for number, pair in enumerate(body):
                pair["artifact"] += " now" * (1 + number % 3)
        found = screened(content)
        pairs = parsed(document(content)).pairs
        lengths = [
            [p.prompt(c).replace("'", " ").split() for p in pairs] for c in ("artifact", "natural")
        ]
        (expected,) = separation(
            *text_lengths(*lengths), permutations=200, bootstrap=200, collapse_duplicates=False,
            clusters=find_clusters(pairs).labels,
        )  # fmt: skip
        figure = found.texts[1].separation
        assert figure is not None
        assert figure.d == pytest.approx(expected.d)
        about = next(each for each in said(found) if "how many words" in each)
        assert f"d = {figure.d:.2f}" in about
        assert "(11.0 words in natural prompts, 12.9 in artifact ones)" in about

    def test_what_is_not_significant_tells_nothing_apart(self):
        content = categories(6, 8)
        for body in content.values():
            for pair in body:
                pair["artifact"] += " now"
        assert any("tells the conditions apart" in each for each in said(screened(content)))
        strict = screened(content, criteria=Criteria(alpha=0.001))
        assert strict.texts[1].separation.p_value > 0.001
        assert not any("tells the conditions apart" in each for each in said(strict))

    def test_a_word_that_gives_the_condition_away(self):
        content = categories(6, 8)
        for body in content.values():
            for pair in body[:4]:
                pair["artifact"] += " argue"
        told = [each for each in said(screened(content)) if "gives the condition away" in each]
        assert told == ["A word gives the condition away: 'argue' (0 natural, 24 artifact)."]
        content["c0"][0]["natural"] += " argue"
        assert not any("gives the condition away" in each for each in said(screened(content)))

    @pytest.mark.parametrize(
        ("name", "different"),
        [
            ("alignment_artifact_prompt_pairs", False),
            ("natural_pairs", False),
            ("topic_pairs", True),
        ],
    )
    def test_only_topic_pairs_are_said_to_differ_in_topic(self, name, different):
        found = screen(load_pairs(ROOT / "fixtures" / f"{name}.json"), settings=FEW)
        assert any("few words in common" in each for each in said(found)) == different
        assert said(found, "wrong") == []


class TestCommand:
    EVIL = "<script>alert(1)</script>{{ 7 * 7 }}"

    def test_page_file_and_lines(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        content = categories(6, 8, lambda n: {"natural": f"{self.EVIL} {n} {TOPICS[n]}"})
        path = written(tmp_path / "mine.json", document(content))
        assert main(["pairs", str(path), "--replicates", "200", "--layers", "9"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("48 pairs, 48 units, 6 categories: ")
        (reach,) = (line for line in lines if line.startswith("with 9 independent layers, a d of "))
        assert reach.endswith("or more clears the threshold")
        file = json.loads(Path("artifact_report/pairs.json").read_text(encoding="utf-8"))
        assert file["n_units"] == 48
        assert file["reach"][1]["layers"] == 9
        assert [p["said"] for p in file["problems"]] == [
            p.said for p in screened(content).problems
        ]  # fmt: skip
        page = Path("artifact_report/pairs.html").read_text(encoding="utf-8")
        assert "&lt;script&gt;" in page
        assert "<script" not in page
        assert "{{ 7 * 7 }}" in page
        assert not re.search(r'(src|href)="', page)

    def test_wrong_pairs_end_with_1_and_bad_files_with_2(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        few = written(tmp_path / "few.json", document(categories(1, 5)))
        assert main(["pairs", str(few)]) == 1
        first, second, *_ = capsys.readouterr().out.splitlines()
        assert first == "5 pairs, 5 units, 1 category: 2 wrong points and 1 weak point."
        assert second.startswith("wrong: 5 pairs are 5 units")
        assert "Nothing: too few units." in Path("artifact_report/pairs.html").read_text()
        assert main(["pairs", "nowhere.json"]) == 2
        assert "nowhere.json: no such file" in capsys.readouterr().err
