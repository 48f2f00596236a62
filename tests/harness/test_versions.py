"""Two versions on the same pairs: what counts as a change, and what can't be compared."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from harness.analysis.comparison import BaselineError, check_comparable, compare_versions
from harness.analysis.gate import gate, unchanged
from harness.data.activations import AnalysisError, PairActivations
from harness.results.provenance import provenance
from harness.settings import AnalysisSettings, CollectSettings, Criteria
from harness.stats import CategoryTransfer, compare
from tests.support.builders import parsed, two_categories
from tests.support.measured import facts, measured, pairs_of, version_of

pytestmark = pytest.mark.filterwarnings("ignore:only .* pairs")
ONE, TWO = (0, "mlp_out"), (1, "mlp_out")
EFFECTS = {ONE: 3.0, TWO: 3.0}
PAIRS = pairs_of(24)


def made(effects=EFFECTS, **how):
    return measured(effects, **{"pairs": PAIRS, **how})


def against(a, b, *, margin=0.5, changes=None):
    """B compared with A; both are activations."""
    return compare_versions(
        version_of("0001_old", a),
        version_of("0002_new", b, changes=changes),
        Criteria(margin=margin),
    )


def verdicts(found):
    return {key: layer.comparison.verdict for key, layer in found.layers.items()}


def noisy(activations, size, seed=0):
    """The same with noise of this size on every number."""
    rng = np.random.default_rng(seed)
    return replace(
        activations,
        **{
            arm: tuple(x + size * rng.standard_normal(x.shape) for x in getattr(activations, arm))
            for arm in ("artifact", "natural")
        },
    )


class TestVerdicts:
    def test_itself(self):
        with warnings.catch_warnings(action="error"):
            found = against(made(), made())
        assert (found.a, found.b, found.margin) == ("0001_old", "0002_new", 0.5)
        assert list(found.layers) == [ONE, TWO]
        for layer in found.layers.values():
            assert layer.comparison.verdict == "equivalent"
            assert layer.comparison.difference == 0.0
            assert layer.comparison.interval == (0.0, 0.0)
            assert not layer.comparison.detectable
            assert layer.drift.cosine == pytest.approx(1)
            assert unchanged(layer).outcome == "passed"
        assert found.gained == found.lost == found.warnings == ()

    @pytest.mark.parametrize("size", [1e-6, 0.01])
    def test_float_noise_and_quantization(self, size):
        found = against(made(), noisy(made(), size))
        for layer in found.layers.values():
            assert layer.comparison.verdict == "equivalent"
            assert 0 < abs(layer.comparison.difference) < 10 * size
            assert layer.drift.cosine == pytest.approx(1, abs=10 * size)

    @pytest.mark.parametrize(("before", "after", "sign"), [(3.0, 0.0, -1), (0.0, 3.0, 1)])
    def test_an_effect_that_went_or_came(self, before, after, sign):
        found = against(made({ONE: 3.0, TWO: before}), made({ONE: 3.0, TWO: after}))
        assert verdicts(found) == {ONE: "equivalent", TWO: "changed"}
        change = found.layers[TWO].comparison
        assert sign * change.difference > 1
        assert sign * change.interval[0] > 0 < sign * change.interval[1]
        assert change.d_b - change.d_a == pytest.approx(change.difference)
        assert unchanged(found.layers[TWO]).outcome == "failed"
        assert ("stronger" if sign > 0 else "weaker") in unchanged(found.layers[TWO]).explanation

    def test_too_few_pairs_to_tell(self):
        few = pairs_of(10)
        found = against(made(pairs=few, seed=1), made(pairs=few, seed=2))
        assert set(verdicts(found).values()) == {"inconclusive"}
        verdict = unchanged(found.layers[ONE])
        assert verdict.outcome == "inconclusive"
        assert "n = 10 pairs" in verdict.explanation

    def test_margin(self):
        found = against(made(), noisy(made(), 0.05), margin=1e-6)
        assert "equivalent" not in verdicts(found).values()
        wide = against(made(seed=1), made({ONE: 0.0, TWO: 0.0}, seed=1), margin=50)
        assert set(verdicts(wide).values()) == {"equivalent"}
        assert wide.layers[ONE].comparison.detectable

    def test_level(self):
        a, b = version_of("a", made(seed=1)), version_of("b", made(seed=2))
        wide, narrow = (
            compare_versions(
                a,
                replace(b, analysis=replace(b.analysis, settings=AnalysisSettings(level=level))),
                Criteria(),
            ).layers[ONE]
            for level in (0.99, 0.6)
        )
        for part in ("comparison", "drift"):
            low, high = getattr(wide, part).interval
            lower, upper = getattr(narrow, part).interval
            assert low < lower < upper < high

    def test_scale_is_that_of_the_runs(self):
        a, b = noisy(made(), 0.3), made(seed=2)
        for arm in (*b.artifact, *b.natural):
            arm[:, 3] *= 100
        raw = {"analysis.scale": "raw"}
        found = compare_versions(
            version_of("a", a, changes=raw), version_of("b", b, changes=raw), Criteria()
        )
        (expected,) = compare(
            *(arm[0][None] for arm in (a.artifact, a.natural, b.artifact, b.natural)), scale="raw"
        )
        assert found.layers[ONE].comparison.difference == pytest.approx(expected.difference)
        assert found.layers[ONE].comparison.difference != pytest.approx(
            against(a, b).layers[ONE].comparison.difference
        )

    def test_layers_that_pass_in_one_only(self):
        effects = {(layer, "mlp_out"): 3.0 for layer in range(4)}
        a = version_of("a", made(effects), failed=[(0, "mlp_out"), (1, "mlp_out")])
        b = version_of("b", made(effects), failed=[(1, "mlp_out"), (2, "mlp_out")])
        found = compare_versions(a, b, Criteria())
        assert found.gained == ("layer_0-mlp_out",)
        assert found.lost == ("layer_2-mlp_out",)

    def test_only_layers_of_b_can_be_gained_or_lost(self):
        a = version_of("a", made())
        b = version_of("b", made({TWO: 3.0}))
        found = compare_versions(a, b, Criteria())
        assert list(found.layers) == [TWO]
        assert found.gained == found.lost == ()


class TestCriteria:
    """Both versions are judged by one set, whatever they were saved with."""

    @pytest.mark.parametrize("strict", [Criteria(d_threshold=7), Criteria(alpha=1e-4)])
    def test_of_the_baseline_decide_nothing(self, strict):
        a, b = version_of("a", made(), criteria=strict), version_of("b", made(axis=1))
        found = compare_versions(a, b, Criteria())
        assert found.gained == found.lost == ()
        assert [layer.separated for layer in found.layers.values()] == [True, True]
        assert {layer.drift.verdict for layer in found.layers.values()} == {"turned"}
        assert gate(found, Criteria()) == "failed"

    @pytest.mark.parametrize("strict", [Criteria(d_threshold=7), Criteria(alpha=1e-4)])
    def test_that_are_given_hold_for_both(self, strict):
        a, b = version_of("a", made()), version_of("b", made(), criteria=strict)
        found = compare_versions(a, b, strict)
        assert found.gained == found.lost == ()
        assert not any(layer.separated for layer in found.layers.values())

    def test_others_are_named(self):
        a = version_of("a", made(), criteria=Criteria(d_threshold=7, margin=0.2))
        found = compare_versions(a, version_of("b", made()), Criteria())
        assert found.warnings == (
            "all are judged by d above 0.8 and p below 0.05; saved with others: a (d above 7 and p "
            "below 0.05)",
        )
        a = version_of("a", made(), criteria=Criteria(margin=0.2))
        assert compare_versions(a, version_of("b", made()), Criteria()).warnings == ()


class TestCategories:
    def with_transfer(self, name, ds, **how):
        """A saved run; `ds` is d by category and layer."""
        version = version_of(name, made(**how))
        results = {
            key: replace(
                result,
                transfer=tuple(
                    CategoryTransfer(
                        category, by_layer[result.layer], (-9.0, 9.0), 0.75, 12, 12, 0.5, 0.5
                    )
                    for category, by_layer in ds.items()
                    if result.layer in by_layer
                ),
            )
            for key, result in version.analysis.items()
        }
        return replace(version, analysis=replace(version.analysis, results=results))

    def test_change_of_each(self):
        a = self.with_transfer(
            "a", {"one": {0: 1.0, 1: 2.0}, "two": {0: 1.5, 1: math.inf}, "old": {0: 1.0}}
        )
        b = self.with_transfer(
            "b", {"new": {0: 9.0}, "one": {0: 0.25, 1: 2.5}, "two": {0: 1.5, 1: 1.0}}
        )
        found = compare_versions(a, b, Criteria())
        assert found.categories == {
            "one": {"layer_0-mlp_out": -0.75, "layer_1-mlp_out": 0.5},
            "two": {"layer_0-mlp_out": 0.0, "layer_1-mlp_out": -math.inf},
        }

    def test_d_that_is_not_defined_is_left_out(self):
        a = self.with_transfer("a", {"one": {0: math.nan, 1: 2.0}})
        b = self.with_transfer("b", {"one": {0: 0.25, 1: 2.5}})
        for one, other in ((a, b), (b, a)):
            found = compare_versions(one, other, Criteria())
            assert list(found.categories["one"]) == ["layer_1-mlp_out"]

    def test_layers_of_b_alone(self):
        a = self.with_transfer("a", {"one": {0: 1.0, 1: 2.0}})
        b = self.with_transfer("b", {"one": {1: 2.5}}, effects={TWO: 3.0})
        found = compare_versions(a, b, Criteria())
        assert found.categories == {"one": {"layer_1-mlp_out": 0.5}}


class TestPairs:
    def test_dropped_in_one_version_are_left_out_of_both(self):
        whole = made()
        a = whole.select([p for p in PAIRS if p.id != "q03"], whole.keys)
        b = noisy(whole, 0.1).select([p for p in PAIRS if p.id not in ("q05", "q20")], whole.keys)
        found = against(a, b)
        common = [p for p in PAIRS if p.id not in ("q03", "q05", "q20")]
        expected = against(a.select(common, a.keys), b.select(common, b.keys))
        for key, layer in found.layers.items():
            assert layer.comparison.n_pairs == layer.drift.n_pairs == 21
            assert layer == expected.layers[key]

    def test_in_another_order(self):
        whole = made()
        found = against(whole, whole.select(PAIRS[::-1], whole.keys))
        for layer in found.layers.values():
            assert layer.comparison.difference == pytest.approx(0, abs=1e-9)
            assert layer.comparison.verdict == "equivalent"

    def test_fewer_than_eight_in_both(self):
        whole = made()
        one, other = whole.select(PAIRS[:15], whole.keys), whole.select(PAIRS[8:], whole.keys)
        with pytest.raises(AnalysisError, match="7 distinct pairs are too few"):
            against(one, other)


class TestPlaces:
    def test_a_layer_that_the_baseline_lacks(self):
        with pytest.raises(BaselineError, match=r"0001_old\.safetensors: has no layer_1-mlp_out$"):
            against(made({ONE: 3.0}), made())

    def test_a_site_that_the_baseline_lacks(self):
        with pytest.raises(BaselineError, match="has no layer_0-attn_out, layer_1-attn_out"):
            against(made(), made({(0, "attn_out"): 3.0, ONE: 3.0, (1, "attn_out"): 3.0}))

    def test_keys_in_another_order(self):
        effects = {(0, "mlp_out"): 3.0, (0, "attn_out"): 0.0, (1, "mlp_out"): 3.0}
        whole = made(effects)
        found = against(whole, whole.select(PAIRS, [*reversed(whole.keys)]))
        assert list(found.layers) == [*reversed(whole.keys)]
        assert {layer.comparison.difference for layer in found.layers.values()} == {0.0}


class TestDrift:
    @staticmethod
    def strong(one=8.0, **how):
        return made({ONE: one, TWO: 8.0}, **{"width": 4, **how})

    def test_same_direction_in_other_noise(self):
        found = against(self.strong(seed=1), self.strong(seed=2))
        for layer in found.layers.values():
            low, high = layer.drift.interval
            assert layer.drift.cosine == pytest.approx(1, abs=0.15)
            assert low < 1 < high

    def test_another_direction(self):
        found = against(self.strong(seed=1), self.strong(seed=2, axis=2))
        for layer in found.layers.values():
            low, high = layer.drift.interval
            assert abs(layer.drift.cosine) < 0.25
            assert low < 0 < high

    def test_the_other_way_round(self):
        found = against(self.strong(seed=1), self.strong(-8.0, seed=2))
        assert found.layers[ONE].drift.cosine == pytest.approx(-1, abs=0.15)
        assert found.layers[TWO].drift.cosine == pytest.approx(1, abs=0.15)

    def test_other_widths(self):
        """Another model at one site, and the same width at another."""
        narrow = made({ONE: 3.0}, width=9)
        a, b = self.strong(), self.strong(seed=2)
        b = PairActivations(
            b.pairs,
            b.keys,
            (narrow.artifact[0], b.artifact[1]),
            (narrow.natural[0], b.natural[1]),
            b.clusters,
        )
        found = against(a, b)
        assert found.layers[ONE].drift is None
        assert found.layers[TWO].drift.cosine == pytest.approx(1, abs=0.15)
        assert found.layers[ONE].comparison.n_pairs == 24
        assert "cosine" not in unchanged(found.layers[ONE]).explanation

    def test_other_widths_everywhere(self):
        found = against(made(), made(width=9))
        assert {layer.drift for layer in found.layers.values()} == {None}

    def test_a_layer_that_is_the_same_for_all_prompts(self):
        """As the embedding of the last prompt token is."""
        a, b = self.strong(seed=1), self.strong(seed=2)
        for version in (a, b):
            version.artifact[0][:] = version.natural[0][:] = 1.5
        found = against(a, b)
        assert math.isnan(found.layers[ONE].drift.cosine)
        assert found.layers[ONE].comparison.verdict == "inconclusive"
        assert found.layers[TWO].drift.cosine == pytest.approx(1, abs=0.15)


DECISIVE = {
    "pairs_fingerprint": ("0" * 64, "prompt pairs"),
    "template_fingerprint": (None, "chat template"),
    "collection.positions": ("forced", "positions"),
    "collection.max_tokens": (7, "number of tokens"),
    "collection.sampling.temperature": (0.7, "sampling settings"),
    "collection.sampling.top_k": (40, "sampling settings"),
    "collection.seed": (1, "sampling seed"),
    "collection.chat": (False, "use of the chat template"),
    "analysis.scale": ("raw", "scaling of the statistics"),
    "analysis.direction": ("shrinkage", "direction of the statistics"),
}
CIRCUMSTANCES = {
    "packages": {"numpy": "2.1"},
    "python": "3.12.0",
    "device": "gpu",
    "machine": "Darwin arm64, 10 cores",
    "blas": "another",
    "backend": "mlx_lm",
    "collection.dtype": "bfloat16",
    "collection.tensor_parallel": 2,
    "analysis.level": 0.9,
}
# The version itself, what names it, and what the comparison looks at by itself.
FREE = {
    "model": "b/model",
    "unknown_config_keys": ["mystery"],
    "revision": "main",
    "adapter": "b/adapter",
    "adapter_fingerprint": "0" * 64,
    "base_model": "b/base",
    "base_fingerprint": "0" * 64,
    "model_fingerprint": "0" * 64,
    "model_layers": 26,
    "pairs_file": "other.json",
    "pairs_version": "2.0",
    "collection.sites": ["mlp_out", "attn_out"],
    "collection.layers": [0, 1],
    "collection.batch_size": 3,
    "analysis.replicates": 999,
    "analysis.seed": 3,
    "git_commit": "0" * 40,
    "date": "2031-01-01T00:00:00+00:00",
    "run_key": "0" * 64,
    "origin": "taken from the store",
}


class TestSettings:
    @pytest.mark.parametrize("what", DECISIVE)
    def test_decisive_ones_are_refused_by_name(self, what):
        value, name = DECISIVE[what]
        for changes in ({what: value}, {"date": "later", what: value}):
            with pytest.raises(BaselineError) as caught:
                against(made(), made(), changes=changes)
            message = str(caught.value)
            assert message.startswith("0001_old.safetensors: can't be compared, different ")
            assert name in message
            assert message.count(" there, ") == 1, "nothing else is named"

    def test_both_values_are_named(self):
        with pytest.raises(BaselineError, match=r"number of tokens \(20 there, 7 here\)"):
            against(made(), made(), changes={"collection.max_tokens": 7})
        with pytest.raises(BaselineError, match=r"\(dddddddddddd… there, 000000000000… here\)"):
            against(made(), made(), changes={"pairs_fingerprint": "0" * 64})

    def test_all_that_differ_are_named_at_once(self):
        with pytest.raises(BaselineError) as caught:
            against(made(), made(), changes={what: value for what, (value, _) in DECISIVE.items()})
        for _, name in DECISIVE.values():
            assert name in str(caught.value)

    def test_settings_are_looked_at_before_layers(self):
        with pytest.raises(BaselineError, match="prompt pairs"):
            against(made({ONE: 3.0}), made(), changes={"pairs_fingerprint": "0" * 64})

    @pytest.mark.parametrize("what", CIRCUMSTANCES)
    def test_circumstances_are_warnings(self, what):
        value = CIRCUMSTANCES[what]
        found = against(made(), made(), changes={what: value})
        (warning,) = found.warnings
        assert warning.startswith(f"{what}: ")
        assert warning.endswith(f"{value} now")
        assert set(verdicts(found).values()) == {"equivalent"}

    @pytest.mark.parametrize("what", FREE)
    def test_the_rest_may_differ(self, what):
        assert against(made(), made(), changes={what: FREE[what]}).warnings == ()

    def test_every_fact_of_a_run_is_one_of_these(self, small_checkpoint):
        found = provenance(
            "a/model",
            None,
            None,
            small_checkpoint,
            parsed(two_categories(8)),
            CollectSettings(),
            AnalysisSettings(),
        )

        def leaves(value, path=""):
            if isinstance(value, dict) and path != "packages":
                for key, inner in value.items():
                    yield from leaves(inner, f"{path}.{key}" if path else key)
            else:
                yield path

        known = {*DECISIVE, *CIRCUMSTANCES, *FREE}
        unknown = {
            path
            for path in leaves(found)
            if path not in known and not path.startswith("collection.sampling.")
        }
        assert unknown == set()

    def test_a_run_is_comparable_before_it_is_made(self):
        """As the plugin asks, with the facts alone."""
        old = version_of("old", made())
        check_comparable(old, facts({}), [TWO])
        with pytest.raises(BaselineError, match="sampling seed"):
            check_comparable(old, facts({"collection.seed": 5}), [TWO])
        with pytest.raises(BaselineError, match="has no layer_7-mlp_out"):
            check_comparable(old, facts({}), [TWO, (7, "mlp_out")])

    def test_a_baseline_that_does_not_say(self):
        """Not taken for equal."""
        old = version_of("old", made())
        del old.analysis.provenance["collection"]
        with pytest.raises(BaselineError, match="different positions"):
            compare_versions(old, version_of("new", made()), Criteria())
