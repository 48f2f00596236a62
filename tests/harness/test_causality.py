"""Interventions along a direction: measured as defined, on both answers, leaving nothing behind."""

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx import intervention
from harness.analysis import causality
from harness.analysis.causality import NEUTRAL_PROMPTS, mixtures
from harness.analysis.judges import uses_direction
from harness.backends.gemma import GemmaBackend
from harness.data.activations import AnalysisError
from harness.data.store import Response
from harness.settings import Criteria
from harness.stats.clusters import Clusters
from tests.support.builders import layer_result
from tests.support.checkpoints import config, save, weights
from tests.support.measured import TINY, measured, pairs_of, tiny_checkpoint
from tests.support.tokenizers import save_tokenizer

PAIRS = pairs_of(12)
LAST = (1, "resid_post")
WEIGHTS = weights(config(**TINY), seed=1)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return gemma_mlx.load_checkpoint(tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(autouse=True)
def _nothing_is_left(gemma):
    yield
    assert gemma.interventions == []


def answers(artifact, natural, pairs=PAIRS):
    """Responses; each argument gives the token ids for a pair's number."""
    return {
        pair.group(condition): Response(tuple(how(number)), "", "length")
        for number, pair in enumerate(pairs)
        for condition, how in (("artifact", artifact), ("natural", natural))
    }


def encoded(gemma, condition, pairs=PAIRS):
    return gemma_mlx.encode_prompts(gemma, [pair.prompt(condition) for pair in pairs])


def activations(direction=None, *, seed=0, key=LAST, pairs=PAIRS):
    """Noise, with the artifact arm moved along a direction."""
    found = measured({key: 0.0}, pairs=pairs, width=TINY["hidden_size"], seed=seed)
    if direction is not None:
        found.artifact[0][:] += direction
    return found


def between(one, other, length):
    """The direction at the end of the model that makes token `one` likelier than `other`."""
    embedding = WEIGHTS["model.embed_tokens.weight"]
    found = (1 + WEIGHTS["model.norm.weight"]) * (embedding[one] - embedding[other])
    return found * (length / np.linalg.norm(found))


def causal_effects(gemma, *what, **how):
    return causality.causal_effects(GemmaBackend(gemma), *what, **how)


def effects(gemma, found, responses, **how):
    (key,) = found.keys
    return causal_effects(gemma, found, responses, [key], **{"directions": 6, **how})[key]


@pytest.fixture(scope="module")
def extremes(gemma):
    """The likeliest and the unlikeliest first token after the artifact prompts."""
    reading = gemma_mlx.read_continuations(gemma, encoded(gemma, "artifact"), [[0]] * len(PAIRS))
    mean = np.mean([row[0] for row in reading.log_probs()], axis=0)
    return int(mean.argmax()), int(mean.argmin())


@pytest.mark.slow
class TestDirectionThatIsUsed:
    def test_addition(self, gemma, extremes):
        likely, unlikely = extremes
        found = activations(between(unlikely, likely, length=12))
        responses = answers(lambda _: (unlikely,), lambda _: (likely,))
        add, _ = effects(gemma, found, responses, directions=100)
        assert add.kind == "add"
        assert add.own_shift > 1
        assert add.shift_interval[0] > 0.5
        assert add.own_shift > add.random_shift + 0.5
        assert add.p_value <= 3 / 101
        assert add.p_adjusted <= 4 / 101
        assert uses_direction(layer_result(*LAST), add, Criteria()).outcome == "passed"

    def test_ablation(self, gemma, extremes):
        likely, unlikely = extremes
        found = activations(between(likely, unlikely, length=12))
        responses = answers(lambda _: (likely,), lambda _: (unlikely,))
        _, ablate = effects(gemma, found, responses, directions=100)
        assert ablate.kind == "ablate"
        assert ablate.own_shift < -0.5
        assert ablate.shift_interval[1] < 0
        assert ablate.p_value <= 3 / 101
        assert ablate.p_adjusted <= 4 / 101
        assert uses_direction(layer_result(*LAST), ablate, Criteria()).outcome == "passed"

    def test_addition_with_the_answers_exchanged(self, gemma, extremes):
        likely, unlikely = extremes
        found = activations(between(unlikely, likely, length=12))
        responses = answers(lambda _: (likely,), lambda _: (unlikely,))
        add, _ = effects(gemma, found, responses, directions=20)
        assert add.own_shift < -1
        assert add.p_value == 1
        assert uses_direction(layer_result(*LAST), add, Criteria()).outcome == "failed"


class TestDirectionThatIsNot:
    """Directions of noise: whatever they do, so do random ones."""

    @pytest.mark.slow
    @pytest.mark.parametrize("answer", ["one for all", "each its own"])
    def test_is_not_taken_for_one(self, gemma, answer):
        ids = np.random.default_rng(0).integers(6, 100, (len(PAIRS), 2, 3)).tolist()
        responses = (
            answers(lambda _: (11, 12, 13), lambda _: (40, 41, 42))
            if answer == "one for all"
            else answers(lambda n: ids[n][0], lambda n: ids[n][1])
        )
        outcomes = [
            uses_direction(layer_result(), effect, Criteria()).outcome
            for seed in range(4)
            for effect in effects(
                gemma, activations(seed=seed), responses, directions=20, seed=seed
            )
        ]
        # At a level of 5% more than two of eight have a chance of 1 in 170.
        assert outcomes.count("passed") <= 2

    def test_ablating_what_is_not_there(self, tmp_path):
        """No output of this MLP has anything in dimensions 3 to 8, where the pairs differ."""
        tensors = {name: tensor.copy() for name, tensor in WEIGHTS.items()}
        tensors["model.layers.0.mlp.down_proj.weight"][3:9] = 0
        gemma = gemma_mlx.load(save_tokenizer(save(tmp_path / "m", config(**TINY), tensors)))
        found = activations(key=(0, "mlp_out"))
        found.artifact[0][:] = found.natural[0]
        found.artifact[0][:, 3:9] += np.random.default_rng(0).uniform(-0.5, 2, (len(PAIRS), 6))
        add, ablate = effects(gemma, found, answers(lambda n: (11, 12 + n), lambda _: (40,)))
        assert (ablate.own_shift, ablate.shift, ablate.divergence) == (0, 0, 0)
        assert ablate.shift_interval == (0, 0)
        assert ablate.p_value == 1
        assert uses_direction(layer_result(), ablate, Criteria()).outcome == "failed"
        assert add.own_shift != 0
        assert add.divergence > 0

    def test_conditions_that_are_the_same_there(self, gemma):
        """There is no direction, and so nothing that it does."""
        found = activations()
        found.artifact[0][:] = found.natural[0]
        for effect in effects(gemma, found, answers(lambda _: (11,), lambda _: (40,))):
            assert (effect.own_shift, effect.random_shift, effect.divergence) == (0, 0, 0)
            assert (effect.p_value, effect.p_adjusted) == (1, 1)
            assert uses_direction(layer_result(), effect, Criteria()).outcome == "failed"

    def test_differences_that_cancel(self, gemma):
        """With the same difference in all pairs there is no random direction to hold it against."""
        found = activations()
        found.artifact[0][:] = found.natural[0] + between(20, 30, length=4.0)
        for effect in effects(gemma, found, answers(lambda n: (11 + n,), lambda _: (40,))):
            assert (effect.p_value, effect.p_adjusted) == (1, 1)


class TestMeasure:
    @pytest.mark.slow
    @pytest.mark.parametrize("key", [LAST, (0, "mlp_post")])
    def test_by_hand(self, gemma, key, monkeypatch):
        """Pair by pair, from the model's plain logits."""
        monkeypatch.setattr(causality, "PAIRS", len(PAIRS))
        width = gemma_mlx.SITES[key[1]].features(gemma.config)
        found = measured({key: 1.0}, pairs=PAIRS, width=width)
        responses = answers(
            lambda n: range(20, 21 + n % 4), lambda n: [50 + n, 51 + n, 52][: 1 + n % 3]
        )
        delta = found.artifact[0] - found.natural[0]
        directions = [np.delete(delta, i, axis=0).mean(axis=0) for i in range(len(PAIRS))]

        def log_prob(prompt, answer):
            logits = gemma_mlx.logits(gemma, [[*prompt, *answer]])[0].astype(np.float64)
            logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            steps = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            return np.mean([logits[s, token] for s, token in zip(steps, answer, strict=True)])

        def preference(pair, prompt):
            artifact, natural = (
                responses[pair.group(c)].token_ids for c in ("artifact", "natural")
            )
            return log_prob(prompt, artifact) - log_prob(prompt, natural)

        for effect, condition, change in zip(
            effects(gemma, found, responses, directions=2),
            ("natural", "artifact"),
            (intervention.add, intervention.ablate),
            strict=True,
        ):
            shifts = []
            for pair, prompt, direction in zip(
                PAIRS, encoded(gemma, condition), directions, strict=True
            ):
                before = preference(pair, prompt)
                with change(gemma, key[1], key[0], direction):
                    shifts.append(preference(pair, prompt) - before)
            assert effect.own_shift == pytest.approx(np.mean(shifts), abs=2e-5)
            assert effect.shift == pytest.approx(effect.own_shift - effect.random_shift, abs=1e-6)
            assert (effect.n_pairs, effect.n_random) == (12, 2)

    @pytest.mark.slow
    def test_batches_do_not_matter(self, gemma, monkeypatch):
        responses = answers(lambda n: range(20, 21 + n % 4), lambda n: (50 + n,))
        whole = effects(gemma, activations(), responses)
        sizes = []
        change = intervention.add
        monkeypatch.setitem(
            causality.CHANGES,
            "add",
            lambda g, site, layer, vector, **how: (
                sizes.append(len(vector)) or change(g, site, layer, vector, **how)
            ),
        )
        monkeypatch.setattr(causality, "_BATCH_ELEMENTS", 131 * 4 * 3)
        parts = effects(gemma, activations(), responses)
        assert {7, 3, 2} <= set(sizes)
        for one, other in zip(whole, parts, strict=True):
            assert other.own_shift == pytest.approx(one.own_shift, abs=1e-5)
            assert other.shift_interval == pytest.approx(one.shift_interval, abs=1e-5)
            assert other.random_shift == pytest.approx(one.random_shift, abs=1e-5)

    def test_pairs_that_are_tried(self, gemma):
        """As many of each category, and as many units, as there are."""
        pairs = pairs_of(40)
        found = activations(pairs=pairs)
        clustered = replace(found, clusters=tuple(min(n, 12) for n in range(40)))
        tried = causality._balanced(clustered)
        assert len(tried) == causality.PAIRS == len({min(n, 12) for n in tried})
        categories = [pairs[n].category for n in causality._balanced(found)]
        assert {categories.count(each) for each in set(categories)} == {
            causality.PAIRS // len({pair.category for pair in pairs})
        }

    @pytest.mark.slow
    def test_family(self, gemma):
        """The p-values by themselves are each member's own; the others are the family's."""
        keys = [(0, "mlp_out"), LAST]
        found = measured(dict.fromkeys(keys, 1.0), pairs=PAIRS, width=TINY["hidden_size"], seed=3)
        responses = answers(lambda n: (11 + n,), lambda _: (40,))
        whole = causal_effects(gemma, found, responses, keys, directions=19)
        assert list(whole) == keys
        for key in keys:
            alone = causal_effects(gemma, found, responses, [key], directions=19)[key]
            for one, other in zip(whole[key], alone, strict=True):
                assert replace(one, p_adjusted=0) == replace(other, p_adjusted=0)
                assert one.p_adjusted >= other.p_adjusted >= other.p_value

    def test_divergence_grows_with_the_direction(self, gemma):
        responses = answers(lambda _: (11,), lambda _: (40,))
        small, large = (
            effects(gemma, activations(between(20, 30, length)), responses)[0]
            for length in (1.0, 20.0)
        )
        assert 0 < small.divergence < large.divergence
        assert large.random_divergence > 0

    def test_level(self, gemma):
        responses = answers(lambda n: (11 + n,), lambda _: (40,))
        narrow, wide = (
            effects(gemma, activations(), responses, level=level)[0].shift_interval
            for level in (0.8, 0.99)
        )
        assert wide[0] < narrow[0] < narrow[1] < wide[1]

    @pytest.mark.slow
    def test_seed(self, gemma):
        responses = answers(lambda n: (11 + n,), lambda _: (40,))
        one, again, other = (
            effects(gemma, activations(), responses, seed=seed) for seed in (1, 1, 2)
        )
        assert one == again
        for a, b in zip(one, other, strict=True):
            assert a.own_shift == b.own_shift
            assert a.divergence == b.divergence
            assert a.random_shift != b.random_shift

    def test_without_the_chat_template(self, gemma):
        responses = answers(lambda _: (11,), lambda _: (40,))
        chat, plain = (
            effects(gemma, activations(), responses, directions=1, chat=chat)
            for chat in (True, False)
        )
        assert chat[0].own_shift != plain[0].own_shift
        assert chat[0].divergence != plain[0].divergence


@pytest.fixture
def seen(gemma, monkeypatch):
    """What was read or written, and which interventions were on then."""
    found = {"reads": [], "writes": []}
    write, prompts_of = gemma_mlx.generate, {}

    def watched(begin):
        def reading(gemma, prompts, texts, *, layer):
            assert gemma.interventions == []
            begun = begin(gemma, prompts, texts, layer=layer)
            # The reading itself is kept, so that no other one gets its id.
            prompts_of[id(begun)] = begun, prompts
            return begun

        return reading

    def reread(how):
        def log_probs(self):
            found["reads"].append((prompts_of[id(self)][1], list(self.gemma.interventions)))
            return how(self)

        return log_probs

    for kind, name in ((gemma_mlx.Reading, "log_probs"), (gemma_mlx.Choice, "token_log_probs")):
        monkeypatch.setattr(kind, name, reread(getattr(kind, name)))

    def writing(gemma, prompts, **how):
        found["writes"].append((list(prompts), list(gemma.interventions)))
        return write(gemma, prompts, **how)

    for name in ("read_continuations", "read_choice"):
        monkeypatch.setattr(gemma_mlx, name, watched(getattr(gemma_mlx, name)))
    monkeypatch.setattr(gemma_mlx, "generate", writing)
    return found


class TestMixtures:
    N = 12
    ROWS = np.array([0, 3, 11])

    @pytest.fixture
    def delta(self):
        delta = np.random.default_rng(0).standard_normal((self.N, 40)) + 0.5
        # Pair 0's own difference is the only one with anything in dimension 5.
        delta[:, 5] = 0
        delta[0, 5] = 30.0
        return delta

    def mixed(self, delta, labels=None, n=7):
        units = Clusters.from_labels(labels, len(delta))
        signs = np.random.default_rng(1).choice((-1.0, 1.0), (n, len(units)))
        return mixtures(delta, units, signs, self.ROWS), signs, units

    def test_the_first_is_the_mean_difference_of_the_others(self, delta):
        found, _, _ = self.mixed(delta)
        for row, vectors in zip(self.ROWS, found, strict=True):
            np.testing.assert_allclose(vectors[0], np.delete(delta, row, axis=0).mean(axis=0))

    @pytest.mark.parametrize("labels", [None, [0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 7]])
    def test_the_others_have_random_signs_no_mean_and_its_length(self, delta, labels):
        found, signs, units = self.mixed(delta, labels)
        for row, (own, *vectors) in zip(self.ROWS, found, strict=True):
            left = units.of != units.of[row]
            about_mean = delta[left] - delta[left].mean(axis=0)
            for vector, sign in zip(vectors, signs, strict=True):
                by_hand = sign[units.of[left]] @ about_mean
                by_hand *= np.linalg.norm(own) / np.linalg.norm(by_hand)
                np.testing.assert_allclose(vector, by_hand, atol=1e-12)

    def test_are_not_made_orthogonal(self, delta):
        """They would lack a dimension that the tested one has."""
        found, _, _ = self.mixed(delta, n=100)
        along = (found[:, 1:] * found[:, :1]).sum(axis=2) / (found[:, :1] ** 2).sum(axis=2)
        assert np.abs(along).max() > 0.1

    def test_hold_no_separation(self, delta):
        """However far apart the conditions lie, the random directions stay what they were."""
        apart = delta + 1000 * np.eye(40)[7]
        near, far = (self.mixed(each)[0][:, 1:] for each in (delta, apart))
        near, far = (v / np.linalg.norm(v, axis=2, keepdims=True) for v in (near, far))
        np.testing.assert_allclose(near, far, atol=1e-9)

    def test_know_nothing_of_their_own_pair(self, delta):
        found, _, _ = self.mixed(delta)
        assert np.abs(found[0, :, 5]).max() < 1e-12
        assert (np.abs(found[1:, :, 5]) > 0.1).all()

    def test_nothing_to_hold_it_against(self):
        assert not self.mixed(np.ones((self.N, 3)))[0].any()
        assert not self.mixed(np.zeros((self.N, 3)))[0].any()


class TestNothingIsGenerated:
    def test_but_answers_to_neutral_prompts(self, gemma, seen, monkeypatch):
        run_batch, batches = gemma_mlx.generation.run_batch, []
        monkeypatch.setattr(
            gemma_mlx.generation,
            "run_batch",
            lambda g, request, batch: (
                batches.extend(request.prompts[i] for i in batch) or run_batch(g, request, batch)
            ),
        )
        effects(gemma, activations(), answers(lambda _: (11,), lambda _: (40,)))
        neutral = gemma_mlx.encode_prompts(gemma, NEUTRAL_PROMPTS)
        ((prompts, interventions),) = seen["writes"]
        assert prompts == neutral
        assert interventions == []
        assert sorted(batches) == sorted(neutral)

    def test_directions_are_added_to_natural_prompts_and_ablated_from_artifact_ones(
        self, gemma, seen
    ):
        effects(gemma, activations(), answers(lambda _: (11,), lambda _: (40,)), directions=2)
        known = {name: encoded(gemma, name) for name in ("natural", "artifact")}
        changed = [prompt for prompt, during in seen["reads"] if during]
        order = [
            next((n for n, prompts in known.items() if prompt in prompts), "neutral")
            for prompt in changed
        ]
        # All vectors of a prompt at once; of neutral prompts one after the other.
        once = [name for name, _ in itertools.groupby(order)]
        assert once == ["natural", "neutral", "artifact", "neutral"]
        assert order.count("natural") == order.count("artifact") == causality.PAIRS
        assert order.count("neutral") == 2 * 3
        assert all(len(during) <= 1 for _, during in seen["reads"])

    def test_neutral_prompts_are_not_about_the_pairs(self):
        assert len(set(NEUTRAL_PROMPTS)) >= 8


class TestRefused:
    def test_too_few_different_answers(self, gemma):
        responses = answers(lambda n: (11,) if n < 7 else (40,), lambda _: (40,))
        with pytest.raises(AnalysisError, match="7 pairs have two different answers; 8 are needed"):
            effects(gemma, activations(), responses)

    @pytest.mark.slow
    def test_pairs_of_equal_answers_are_left_out(self, gemma):
        responses = answers(lambda n: (11, n) if n < 9 else (40,), lambda _: (40,))
        few = activations().select(PAIRS[:9], [LAST])
        assert effects(gemma, activations(), responses, seed=4) == effects(
            gemma, few, responses, seed=4
        )

    def test_pairs_that_were_dropped_are_left_out(self, gemma):
        """A response without tokens has no activations, and can't be preferred."""
        responses = {
            group: replace(response, token_ids=()) if group.endswith("q03") else response
            for group, response in answers(lambda _: (11,), lambda _: (40,)).items()
        }
        left = [pair for pair in PAIRS if pair.id != "q03"]
        found = effects(gemma, activations().select(left, [LAST]), responses)
        assert {effect.n_pairs for effect in found} == {causality.PAIRS}

    @pytest.mark.parametrize("reads", [1, 2, 30])
    def test_nothing_is_left_of_a_failed_one(self, gemma, monkeypatch, reads):
        read, count = gemma_mlx.Choice.token_log_probs, iter(range(reads))

        def failing(reading):
            if next(count, None) is None:
                raise RuntimeError("on purpose")
            return read(reading)

        before = gemma_mlx.generate(gemma, encoded(gemma, "artifact"), max_tokens=3)
        monkeypatch.setattr(gemma_mlx.Choice, "token_log_probs", failing)
        responses = answers(lambda _: (11,), lambda _: (40,))
        with pytest.raises(RuntimeError, match="on purpose"):
            effects(gemma, activations(), responses)
        assert gemma.interventions == []
        after = gemma_mlx.generate(gemma, encoded(gemma, "artifact"), max_tokens=3)
        assert [g.token_ids for g in after] == [g.token_ids for g in before]

    def test_a_model_that_says_nothing(self, gemma, monkeypatch):
        write = gemma_mlx.generate
        monkeypatch.setattr(
            gemma_mlx,
            "generate",
            lambda *args, **how: [replace(g, token_ids=[]) for g in write(*args, **how)],
        )
        with pytest.raises(AnalysisError, match="no neutral prompt"):
            effects(gemma, activations(), answers(lambda _: (11,), lambda _: (40,)))


def test_no_warnings(gemma):
    with warnings.catch_warnings(action="error"):
        effects(gemma, activations(), answers(lambda _: (11,), lambda _: (40,)))
