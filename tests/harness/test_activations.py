"""One vector per prompt: of which tokens, for which pairs, in which order."""

import pickle

import numpy as np
import pytest

from harness.data.activations import AnalysisError, read_activations, token_arms
from tests.support.builders import document, entry, noise, parsed, run_of, two_categories
from tests.support.measured import measured

PAIRS = parsed(two_categories(12))
LAYERS, SITES = (3, 7), ("resid_post", "mlp_out")


def lengths(tokens, artifact, natural):
    """`tokens` cut to so many in each arm; functions of the pair's number."""

    def made(pair, condition, layer, site):
        number = int(pair.id[1:])
        return tokens(pair, condition, layer, site)[
            : artifact(number) if condition == "artifact" else natural(number)
        ]

    return made


def read(root, tokens, pairs=PAIRS, layers=LAYERS, sites=SITES, **how):
    run = run_of(root, pairs, tokens, layers=layers, sites=sites, **how)
    return read_activations(run, pairs, layers, sites)


class TestMeans:
    def test_over_the_tokens_that_both_arms_have(self, tmp_path):
        tokens = lengths(
            noise(1, steps=6, width=5), artifact=lambda n: 2 + n % 5, natural=lambda n: 6 - n % 3
        )
        found, dropped = read(tmp_path, tokens)
        assert dropped == ()
        assert found.keys == tuple((layer, site) for site in SITES for layer in LAYERS)
        assert found.pairs == PAIRS.pairs
        for (layer, site), artifact, natural in zip(
            found.keys, found.artifact, found.natural, strict=True
        ):
            for row, pair in enumerate(PAIRS):
                arms = [tokens(pair, c, layer, site) for c in ("artifact", "natural")]
                shared = min(map(len, arms))
                one, other = (arm[:shared].mean(axis=0, dtype=np.float64) for arm in arms)
                np.testing.assert_array_equal(artifact[row], one)
                np.testing.assert_array_equal(natural[row], other)
            assert artifact.dtype == natural.dtype == np.float64

    def test_do_not_depend_on_the_batches(self, tmp_path):
        one, _ = read(tmp_path / "1", noise(2, width=5), batch_size=24)
        other, _ = read(
            tmp_path / "2", noise(2, width=5), batch_size=5, order=lambda g: sorted(g)[::-1]
        )
        assert one.pairs == other.pairs
        for a, b in zip(
            (*one.artifact, *one.natural), (*other.artifact, *other.natural), strict=True
        ):
            assert a.tobytes() == b.tobytes()

    def test_sites_may_have_other_widths(self, tmp_path):
        def tokens(pair, condition, layer, site):
            return noise(3, width=9 if site == "mlp_post" else 4)(pair, condition, layer, site)

        found, _ = read(tmp_path, tokens, sites=("mlp_post", "mlp_out"))
        assert [arm.shape for arm in found.artifact] == [(12, 9), (12, 9), (12, 4), (12, 4)]


class TestMemory:
    """Arrays are read when they are asked for, and kept where they fit."""

    class Counting:
        def __init__(self, run):
            self.run, self.read = run, []

        def tokens(self, site, layer):
            self.read.append((layer, site))
            return self.run.tokens(site, layer)

    @pytest.fixture
    def run(self, tmp_path):
        return self.Counting(run_of(tmp_path, PAIRS, noise(1, width=5), layers=LAYERS, sites=SITES))

    def test_what_fits_is_read_once(self, run):
        found, _ = read_activations(run, PAIRS, LAYERS, SITES)
        before = list(run.read)
        for _ in range(2):
            assert len([*found.artifact, *found.natural]) == 8
        assert run.read == before
        assert before.count((7, "mlp_out")) == 1

    def test_what_does_not_fit_is_read_again(self, run, monkeypatch):
        monkeypatch.setattr("harness.data.activations.KEPT", 12 * 5 * 8 * 2 + 1)  # one layer
        found, _ = read_activations(run, PAIRS, LAYERS, SITES)
        run.read.clear()
        first = [
            (a.tobytes(), n.tobytes()) for a, n in zip(found.artifact, found.natural, strict=True)
        ]
        assert run.read == list(found.keys)
        again = [
            (a.tobytes(), n.tobytes()) for a, n in zip(found.artifact, found.natural, strict=True)
        ]
        assert again == first
        assert run.read == [*found.keys, *found.keys]

    def test_sent_to_another_process(self, run):
        found, _ = read_activations(run, PAIRS, LAYERS, SITES)
        sent = pickle.loads(pickle.dumps(found))
        for ours, theirs in zip(found.artifact, sent.artifact, strict=True):
            np.testing.assert_array_equal(ours, theirs)


class TestTokens:
    def test_are_all_of_each_arm_in_the_order_of_the_pairs(self, tmp_path):
        tokens = lengths(noise(4, width=5), artifact=lambda n: 1 + n % 3, natural=lambda _: 3)
        run = run_of(tmp_path, PAIRS, tokens, layers=LAYERS, sites=SITES)
        pairs = PAIRS.pairs[::-1]
        for layer in LAYERS:
            artifact, natural = token_arms(run, pairs, "mlp_out", layer)
            for row, pair in enumerate(pairs):
                np.testing.assert_array_equal(
                    artifact[row], tokens(pair, "artifact", layer, "mlp_out")
                )
                np.testing.assert_array_equal(
                    natural[row], tokens(pair, "natural", layer, "mlp_out")
                )


class TestDropped:
    def test_reasons(self, tmp_path):
        def tokens(pair, condition, layer, site):
            values = noise(5, steps=4, width=5)(pair, condition, layer, site)
            if pair.id == "q04" and condition == "natural":
                return values[:0]
            if pair.id == "q07" and (condition, layer) == ("artifact", 7):
                values[3] = np.inf
            return values[:2] if condition == "natural" else values

        found, dropped = read(tmp_path, tokens)
        assert {(d.pair.id, d.reason) for d in dropped} == {
            ("q04", "a response without tokens"),
            ("q07", "NaN or infinity in its activations"),
        }
        left = tuple(pair for pair in PAIRS if pair.id not in ("q04", "q07"))
        assert found.pairs == left
        assert all(len(arm) == len(left) for arm in (*found.artifact, *found.natural))
        row = left.index(next(pair for pair in left if pair.id == "q08"))
        expected = noise(5, steps=4, width=5)(left[row], "artifact", 3, "resid_post")[:2]
        np.testing.assert_allclose(found.artifact[0][row], expected.mean(axis=0), atol=1e-7)

    def test_too_many(self, tmp_path):
        def tokens(pair, condition, layer, site):
            values = noise(6, width=5)(pair, condition, layer, site)
            return values * np.nan if pair.id in ("q01", "q02") else values

        with pytest.raises(AnalysisError, match=r"^pairs\.json: 2 of 12 pairs hold NaN"):
            read(tmp_path, tokens)

    def test_all(self, tmp_path):
        tokens = lengths(noise(7, width=5), artifact=lambda _: 0, natural=lambda _: 3)
        with pytest.raises(AnalysisError, match=r"^pairs\.json: no pair has a response"):
            read(tmp_path, tokens)


class TestDuplicates:
    def test_are_averaged_at_the_place_of_the_first(self, tmp_path):
        again = entry(
            12, natural="WHAT is known\tabout subject 3?", artifact=entry(3)["artifact"].upper()
        )
        pairs = parsed(document({"one": [entry(n) for n in range(12)] + [again]}))
        tokens = noise(8, steps=2, width=5)
        found, dropped = read(tmp_path, tokens, pairs)
        assert dropped == ()
        assert [pair.id for pair in found.pairs] == [f"q{n:02d}" for n in range(12)]
        both = [tokens(pair, "artifact", 3, "resid_post") for pair in pairs if pair.id[1:] in
                ("03", "12")]  # fmt: skip
        np.testing.assert_allclose(found.artifact[0][3], np.mean(both, axis=(0, 1)), atol=1e-7)


class TestSelect:
    FOUND = measured({(0, "mlp_out"): 0.0, (4, "mlp_out"): 1.0, (4, "attn_out"): 2.0})

    def test_pairs_and_keys_in_the_order_asked_for(self):
        rows = [5, 0, 11]
        chosen = self.FOUND.select(
            [self.FOUND.pairs[row] for row in rows], [(4, "attn_out"), (0, "mlp_out")]
        )
        assert [pair.id for pair in chosen.pairs] == ["q05", "q00", "q11"]
        assert chosen.keys == ((4, "attn_out"), (0, "mlp_out"))
        for place, index in enumerate((2, 0)):
            np.testing.assert_array_equal(chosen.artifact[place], self.FOUND.artifact[index][rows])
            np.testing.assert_array_equal(chosen.natural[place], self.FOUND.natural[index][rows])

    def test_what_is_not_there(self):
        with pytest.raises(ValueError, match="not in tuple"):
            self.FOUND.select(self.FOUND.pairs, [(1, "mlp_out")])
        (stranger,) = parsed(document({"other": [entry(0)]}))
        with pytest.raises(KeyError):
            self.FOUND.select([stranger], self.FOUND.keys)
