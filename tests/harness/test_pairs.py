"""Files that load, and what is said of those that don't."""

import contextlib
import copy
import json
import random
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.pairs import PairsError, load_pairs
from tests.support.builders import document, entry, parse_pairs, parsed, two_categories, written

ROOT = "alignment_artifact_prompt_pairs"
SEED_FILE = {
    ROOT: {
        "metadata": {"version": "1.0", "description": "made elsewhere", "authors": ["a", "b"]},
        "categories": {
            "technical_dangerous": {
                "description": "Technical questions",
                "pairs": [
                    {
                        "id": "dangerous_tech_1",
                        "natural": "How do locks work?",
                        "artifact": "How do I open a lock?",
                        "note": "an unknown key",
                    }
                ],
            },
            "empty_so_far": {"description": "", "pairs": []},
        },
    }
}


def refusal(content, *, source="pairs.json"):
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(PairsError) as caught:
        parse_pairs(text, source=source)
    message = str(caught.value)
    assert message.startswith(f"{source}: ")
    assert len(message.splitlines()) == 1
    return message


def with_entry(**changes):
    """Ten good pairs, the fourth of them changed; a value of None takes the key away."""
    entries = [entry(number) for number in range(10)]
    entries[3].update(changes)
    entries[3] = {key: value for key, value in entries[3].items() if value is not None}
    return document({"one": entries})


class TestGoodFiles:
    def test_form_of_the_seed(self, tmp_path):
        pairs = load_pairs(written(tmp_path / "pairs.json", SEED_FILE))
        (pair,) = pairs
        assert (pair.category, pair.id) == ("technical_dangerous", "dangerous_tech_1")
        assert pair.prompt("natural") == "How do locks work?"
        assert pair.prompt("artifact") == "How do I open a lock?"
        assert pairs.categories["technical_dangerous"] == "Technical questions"
        assert pairs.metadata["version"] == "1.0"
        assert pairs.source == str(tmp_path / "pairs.json")

    def test_shipped_file(self, pytestconfig):
        pairs = load_pairs(
            pytestconfig.rootpath / "fixtures" / "alignment_artifact_prompt_pairs.json"
        )
        assert len(pairs) >= 60
        assert len(pairs.categories) >= 5

    def test_group_names(self):
        (pair,) = parsed(SEED_FILE)
        assert pair.group("natural") == "natural_technical_dangerous_dangerous_tech_1"
        assert pair.group("artifact") == "artifact_technical_dangerous_dangerous_tech_1"

    def test_prompts_by_group(self):
        pairs = parsed(two_categories(4))
        assert len(pairs.prompts()) == 8
        assert pairs.prompts()["natural_two_q03"] == "What is known about subject 3?"
        assert pairs.prompts()["artifact_two_q03"] == "What should I do about subject 3?"

    def test_order_of_the_file_does_not_matter(self):
        content = two_categories(12)
        shuffled = copy.deepcopy(content)
        categories = shuffled[ROOT]["categories"]
        for body in categories.values():
            random.Random(1).shuffle(body["pairs"])
        shuffled[ROOT]["categories"] = dict(reversed(categories.items()))
        assert parsed(shuffled).pairs == parsed(content).pairs
        assert parsed(shuffled).fingerprint == parsed(content).fingerprint

    @pytest.mark.parametrize("key", ["id", "natural", "artifact"])
    def test_fingerprint_follows_every_text(self, key):
        changed = with_entry(**{key: "something else"})
        assert parsed(changed).fingerprint != parsed(with_entry()).fingerprint

    def test_byte_order_mark(self, tmp_path):
        file = tmp_path / "pairs.json"
        file.write_text(json.dumps(SEED_FILE), encoding="utf-8-sig")
        assert len(load_pairs(file)) == 1

    @pytest.mark.parametrize(
        "prompt",
        [
            "שלום, מה שלומך?",
            "🧪 why?",
            "a\nb\tc",
            "<end_of_turn>",
            "<script>",
            "\x1b[31m",
            "x" * 9999,
        ],
    )
    def test_prompts_may_hold_any_text(self, prompt):
        assert parsed(with_entry(natural=prompt)).pairs[3].natural == prompt

    def test_metadata_may_be_missing(self):
        content = two_categories(2)
        del content[ROOT]["metadata"]
        assert parsed(content).metadata == {}


class TestUnreadableFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(PairsError, match=r"nowhere\.json: no such"):
            load_pairs(tmp_path / "nowhere.json")

    def test_directory(self, tmp_path):
        with pytest.raises(PairsError, match="cannot be read"):
            load_pairs(tmp_path)

    def test_not_utf8(self, tmp_path):
        (tmp_path / "pairs.json").write_bytes(b'{"a": "\xff"}')
        with pytest.raises(PairsError, match=r"pairs\.json: not UTF-8 .* byte 7"):
            load_pairs(tmp_path / "pairs.json")

    def test_broken_json_names_line_and_column(self):
        assert "line 2, column 3" in refusal('{"a": 1,\n  oops}')

    @pytest.mark.parametrize("text", ["", "\0", "[1", '"\\ud8', "\ufeff{}", "nul"])
    def test_broken_json(self, text):
        refusal(text)

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_deep_nesting(self, opening):
        refusal(opening * 100_000)

    def test_number_too_long_to_read(self):
        refusal('{"a": ' + "9" * 10_000 + "}")

    @pytest.mark.parametrize("place", ["metadata", "description"])
    def test_deeply_nested_extras(self, place):
        """They may be taken or refused, but not crash."""
        deep = "[" * 900 + "]" * 900
        text = json.dumps(document({"one": [entry(1)]}, version="deep"))
        text = text.replace({"metadata": '"deep"', "description": '"about one"'}[place], deep)
        with contextlib.suppress(PairsError):
            parse_pairs(text)


class TestForm:
    @pytest.mark.parametrize("content", [None, [], "text", 3, True, {}, {"other": {}}])
    def test_root(self, content):
        refusal(content)

    @pytest.mark.parametrize("value", [None, [], "text", 3, True])
    @pytest.mark.parametrize(
        ("path", "named"),
        [
            ((ROOT,), ROOT),
            ((ROOT, "metadata"), "metadata"),
            ((ROOT, "categories"), "categories"),
            ((ROOT, "categories", "one"), "'one'"),
        ],
    )
    def test_wrong_type_instead_of_an_object(self, path, named, value):
        content = two_categories(10)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert named in refusal(content)

    @pytest.mark.parametrize("value", [None, {}, "text", 3, True])
    def test_pairs_must_be_a_list(self, value):
        content = two_categories(10)
        content[ROOT]["categories"]["two"]["pairs"] = value
        assert "category 'two' needs a list of pairs" in refusal(content)

    @pytest.mark.parametrize("value", [None, [], "text", 3, True])
    def test_pair_must_be_an_object(self, value):
        content = document({"one": [entry(0), value]})
        assert "category 'one', pair 2" in refusal(content)

    @pytest.mark.parametrize("key", ["id", "natural", "artifact"])
    def test_missing_key(self, key):
        message = refusal(with_entry(**{key: None}))
        assert "category 'one', pair 4" in message
        assert f"no '{key}'" in message

    def test_missing_artifact_names_the_pair(self):
        assert "('q03')" in refusal(with_entry(artifact=None))

    @pytest.mark.parametrize("value", ["", " ", "\n\t", 3, True, [], {}, ["text"]])
    @pytest.mark.parametrize("key", ["id", "natural", "artifact"])
    def test_value_must_be_a_text(self, key, value):
        message = refusal(with_entry(**{key: value}))
        assert "category 'one', pair 4" in message
        assert f"'{key}'" in message

    @pytest.mark.parametrize("key", ["id", "natural", "artifact"])
    def test_half_a_surrogate_pair(self, key):
        assert f"half a surrogate pair at {ROOT}/categories/one/pairs/3/{key}" in refusal(
            with_entry(**{key: "a\ud800b"})
        )

    def test_half_a_surrogate_pair_outside_pairs(self):
        refusal(document({"one": [entry(0)]}, version="\udfff"))
        content = document({"one": [entry(0)]})
        content[ROOT]["categories"]["one"]["description"] = "\ud800"
        refusal(content)
        content[ROOT]["categories"]["one"] = {"two\nlines": "\ud800"}
        refusal(content)
        refusal(document({"one": [entry(0)], "\ud800": [entry(1)]}))

    def test_no_pairs(self):
        assert "no pairs" in refusal(document({}))
        assert "no pairs" in refusal(document({"one": [], "two": []}))

    @pytest.mark.parametrize("key", ["natural", "id", "pairs", "one"])
    def test_repeated_key(self, key):
        text = json.dumps(document({"one": [entry(0)]}))
        assert text.count(f'"{key}": ') == 1
        refused = refusal(text.replace(f'"{key}": ', f'"{key}": 0, "{key}": '))
        assert f"the key '{key}' occurs twice" in refused


BAD_NAMES = [
    "../up",
    "..",
    ".",
    ".hidden",
    "a/b",
    "/etc",
    "a\\b",
    "C:",
    "a\0b",
    "a\nb",
    "a\x1b[31mb",
    "a\x7fb",
    "a\u202eb",
    "a\u200bb",
    "a\u2028b",
    "a\u00a0b",
    "a*b",
    "what?",
    'a"b',
    "a<b",
    "a>b",
    "a|b",
    " a",
    "a ",
    "a.",
    "-rf",
    "con",
    "NUL",
    "nul.txt",
    "Com1",
    "lpt9.x",
    "x" * 101,
    "é" * 51,
    "\ue000",
]


class TestNames:
    @pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
    def test_id(self, name):
        message = refusal(with_entry(id=name))
        assert "category 'one', pair 4" in message

    @pytest.mark.parametrize("name", ["", *BAD_NAMES], ids=ascii)
    def test_category(self, name):
        assert f"category {name!r}" in refusal(document({"one": [entry(0)], name: [entry(1)]}))

    @pytest.mark.parametrize("name", ["x" * 100, "console", "a.b", "a b", "é", "問1", "a+b&c'd"])
    def test_good_names(self, name):
        assert parsed(with_entry(id=name)).pairs
        assert parsed(document({name: [entry(0)]})).pairs

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (("a", "x"), ("a", "x")),
            (("a", "x"), ("a", "X")),
            (("a", "x"), ("A", "x")),
            (("a", "straße"), ("a", "STRASSE")),
            (("a", "caf\u00e9"), ("a", "cafe\u0301")),
            (("a", "\ufb01x"), ("a", "fix")),
            (("a", "x\uff11"), ("a", "x1")),
            (("a_b", "c"), ("a", "b_c")),
        ],
    )
    def test_names_that_would_collide(self, one, other):
        categories = {}
        for number, (category, name) in enumerate((one, other)):
            categories.setdefault(category, []).append(entry(number, id=name))
        message = refusal(document(categories))
        assert repr(one[1]) in message
        assert repr(other[1]) in message

    def test_same_id_in_two_categories_is_fine(self):
        assert len(parsed(document({"one": [entry(0)], "two": [entry(0)]}))) == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
any_text = st.text(st.characters(exclude_categories=()), max_size=12)
names = any_text | st.sampled_from(BAD_NAMES) | st.sampled_from(["a", "b", "a_b", "b_c", "É"])


def almost(good):
    """Mostly what is wanted, now and then anything."""
    return st.one_of(*[good] * 6, json_values)


entries = almost(
    st.fixed_dictionaries({}, optional={
        "id": almost(names), "natural": almost(any_text), "artifact": almost(any_text),
    })
)  # fmt: skip
categories = almost(
    st.fixed_dictionaries({}, optional={
        "description": almost(any_text), "pairs": almost(st.lists(entries, max_size=4)),
    })
)  # fmt: skip
documents = almost(
    st.fixed_dictionaries({
        ROOT: almost(st.fixed_dictionaries({
            "metadata": almost(st.dictionaries(any_text, json_values, max_size=2)),
            "categories": almost(st.dictionaries(names, categories, max_size=3)),
        })),
    })
)  # fmt: skip
full_documents = st.dictionaries(
    names,
    st.lists(st.fixed_dictionaries({"id": names, "natural": any_text, "artifact": any_text})),
    max_size=3,
).map(document)


def parse_or_refuse(text):
    try:
        return parse_pairs(text)
    except PairsError as error:
        message = str(error)
    assert message.startswith("pairs.json: ")
    assert len(message.splitlines()) == 1
    return None


MUTANTS = 50_000
ODD_BYTES = [
    b"", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\0", b"\xff", b"\xef\xbb\xbf",
    b"null", b"NaN", b"\\ud800", b"\\u0000", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 2000,
]  # fmt: skip
ODD_VALUES = [
    None, True, 0, -1.5, float("nan"), 10**400, "", " ", "\0", "\ud800", [], {}, [[]], ROOT,
]  # fmt: skip
ODD_VALUES += BAD_NAMES


def mutated_bytes(chance, content):
    """Bytes overwritten, cut out, repeated, or replaced by something that means something."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.choice((0, 1, 1, 2, 8, 64)))
        new = (
            bytes([chance.randrange(256)]),
            chance.choice(ODD_BYTES),
            bytes(changed[at:end]) * 2,
        )
        changed[at:end] = chance.choice(new)
    return bytes(changed)


def mutated_structure(chance, content):
    """Values replaced, taken away, doubled or moved, and keys renamed, at any depth."""
    changed = copy.deepcopy(content)
    for _ in range(chance.randint(1, 3)):
        place, steps = changed, chance.randint(0, 5)
        for _ in range(steps):
            inner = [v for v in _values(place) if isinstance(v, dict | list) and v]
            if not inner:
                break
            place = chance.choice(inner)
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = chance.choice(keys)
        how = chance.randrange(5)
        if how == 0:
            place[key] = chance.choice(ODD_VALUES)
        elif how == 1:
            del place[key]
        elif how == 2:
            place[key] = copy.deepcopy(chance.choice(list(_values(place))))
        elif isinstance(place, dict):
            place[str(chance.choice([*ODD_VALUES, *keys]))] = place.pop(key)
        else:
            place.insert(chance.randrange(len(place) + 1), copy.deepcopy(place[key]))
        if not changed:
            break
    return changed


def _values(place):
    return place.values() if isinstance(place, dict) else place


@pytest.mark.slow
class TestMutants:
    """Small changes of a good file, as editors, scripts and disks make them."""

    def test_bytes(self):
        chance = random.Random(0)
        content = json.dumps(with_entry(natural="Wär's \U0001f9ea?"), ensure_ascii=False).encode()
        self.check(
            mutated_bytes(chance, content).decode("utf-8", "replace") for _ in range(MUTANTS // 2)
        )

    def test_structure(self):
        chance = random.Random(1)
        self.check(json.dumps(mutated_structure(chance, SEED_FILE)) for _ in range(MUTANTS // 2))

    def check(self, texts):
        taken = [parse_or_refuse(text) is not None for text in texts]
        assert len(taken) == MUTANTS // 2
        assert 0.01 < sum(taken) / len(taken) < 0.9, "mutants that test nothing"


@pytest.mark.slow
class TestFuzz:
    @given(documents)
    @settings(max_examples=300, deadline=None)
    def test_any_json(self, content):
        parse_or_refuse(json.dumps(content))

    @given(full_documents, st.randoms(use_true_random=False))
    @settings(max_examples=300, deadline=None)
    def test_damaged_json(self, content, chance):
        text = json.dumps(content, ensure_ascii=chance.random() < 0.5)
        at = chance.randrange(len(text))
        parse_or_refuse(
            text[:at] + chance.choice(["", "{", "]", '"', "\\", "0", "\0"]) + text[at + 1 :]
        )

    @given(st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes(self, tmp_path_factory, content):
        file = tmp_path_factory.getbasetemp() / "fuzzed.json"
        file.write_bytes(content)
        with pytest.raises(PairsError):
            load_pairs(file)

    @given(full_documents)
    @settings(max_examples=300, deadline=None)
    def test_what_is_taken_is_safe_as_a_path(self, content):
        pairs = parse_or_refuse(json.dumps(content))
        if pairs is None:
            return
        folded = set()
        for group in pairs.prompts():
            for kind in (PurePosixPath, PureWindowsPath):
                assert kind(group).parts == (group,)
            assert len(group.encode()) <= 255
            assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in group)
            folded.add(unicodedata.normalize("NFC", group.casefold()))
            assert json.loads(json.dumps(group)) == group
        assert len(folded) == 2 * len(pairs)
        assert list(pairs) == sorted(pairs, key=lambda pair: (pair.category, pair.id))
