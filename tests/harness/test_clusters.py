"""Which pairs of a file aren't independent of each other."""

from dataclasses import replace

import pytest

from harness.data import embedded
from harness.data.activations import read_activations
from harness.data.clusters import find_clusters
from harness.data.pairs import Pair, PairsError, load_pairs, pairs_of
from tests.support.builders import document, entry, noise, parsed, run_of, two_categories

TOPICS = (
    *("rivers", "bridges", "planes", "gardens", "clocks", "kettles", "mirrors", "violins"),
    *("tunnels", "lanterns", "harbours", "orchards", "glaciers", "kitchens", "libraries"),
    *("markets", "islands", "deserts", "castles", "meadows"),
)


def made(*prompts, clusters=None):
    """Pairs of these (natural, artifact) prompts."""
    return tuple(
        Pair("one", f"q{n}", natural, artifact, None if clusters is None else clusters[n])
        for n, (natural, artifact) in enumerate(prompts)
    )


def distinct(count):
    return [
        (f"How are {topic} made by hand?", f"Who dislikes {topic} most of all?")
        for topic in TOPICS[:count]
    ]


def test_pairs_that_share_nothing_stand_by_themselves():
    found = find_clusters(made(*distinct(12)))
    assert found.labels == tuple(range(12))
    assert found.links == ()


@pytest.mark.parametrize("prompt", ["Who is it?", "  who IS\n it? "])
def test_a_prompt_in_common(prompt):
    pairs = made(*distinct(9), ("Say why.", "Who is it?"), ("Say when.", prompt))
    found = find_clusters(pairs)
    assert found.labels == (*range(9), 9, 9)
    (link,) = found.links
    assert (link.a, link.b, link.reason) == (pairs[9], pairs[10], "prompt")


def test_a_prompt_that_is_natural_here_and_artifact_there():
    found = find_clusters(made(*distinct(9), ("Say why.", "Who is it?"), ("Who is it?", "Where?")))
    assert len(found) == 10


def test_nearly_the_same_wording():
    long = "Please tell me which of the old wooden boats leaked in {} storms last winter"
    near = [(long.format("heavy"), "Why?"), (long.format("mild"), "Whither?")]
    pairs = made(*distinct(20), *near)
    found = find_clusters(pairs)
    assert len(found) == 21
    (link,) = found.links
    assert link.reason == "wording"
    assert {link.a, link.b} == set(pairs[-2:])


def test_one_template_over_different_topics_gives_separate_units():
    template = "Please write a long and persuasive essay in favour of {}"
    pairs = made(*((template.format(t), f"Explain {t} to me as a neutral expert") for t in TOPICS))
    assert len(find_clusters(pairs)) == len(TOPICS)


def test_links_are_transitive():
    shared = [("A b c?", "D e f?"), ("D e f?", "G h i?"), ("J k l?", "G h i?")]
    found = find_clusters(made(*distinct(9), *shared))
    assert found.labels[9:] == (9, 9, 9)


def test_clusters_of_the_file():
    names = ["a", None, "b", "a", None, "b", None, None]
    found = find_clusters(made(*distinct(8), clusters=names))
    assert found.labels == (0, 1, 2, 0, 3, 2, 4, 5)
    assert {link.reason for link in found.links} == {"cluster"}


def test_the_files_that_ship_have_none_but_those_they_name():
    for name in ("alignment_artifact_prompt_pairs.json", "topic_pairs.json", "natural_pairs.json"):
        pairs = load_pairs(embedded.PAIRS.parent / name)
        assert {link.reason for link in find_clusters(pairs.pairs).links} <= {"cluster"}, name


class TestFile:
    def test_a_cluster_is_read_and_changes_no_prompt(self):
        plain = parsed(two_categories(8))
        content = two_categories(8)
        content["alignment_artifact_prompt_pairs"]["categories"]["one"]["pairs"][0]["cluster"] = "x"
        found = parsed(content)
        assert [pair.cluster for pair in found] == ["x"] + [None] * 7
        assert found.fingerprint == plain.fingerprint
        assert found.pairs == plain.pairs

    @pytest.mark.parametrize("cluster", ["", "  ", 3, ["a"], {}])
    def test_a_cluster_that_is_no_text(self, cluster):
        content = document({"one": [{**entry(0), "cluster": cluster}]})
        with pytest.raises(PairsError, match=r"pair 1 \('q00'\): 'cluster' must be a text"):
            pairs_of(content, "pairs.json")

    def test_the_same_prompt_twice_in_a_pair(self):
        same = {"id": "q00", "natural": "Why  not?", "artifact": "why not? "}
        with pytest.raises(PairsError, match=r"pair 1 \('q00'\): .* are the same prompt"):
            pairs_of(document({"one": [same]}), "pairs.json")


def test_activations_carry_them(tmp_path):
    pairs = parsed(two_categories(8))
    named = tuple(replace(p, cluster="x" if n in (2, 5) else None) for n, p in enumerate(pairs))
    pairs = replace(pairs, pairs=named)
    found, _ = read_activations(run_of(tmp_path, pairs, noise(0)), pairs, [0], ["mlp_out"])
    assert found.clusters == (0, 1, 2, 3, 4, 2, 5, 6)
    chosen = found.select(found.pairs[4:6], found.keys)
    assert chosen.clusters == (4, 2)
