"""The controls in the report: whatever there is has its sentence, its figure and its table."""

import math
import re
import warnings
from dataclasses import replace

import pytest

from harness.analysis.behaviour import BehaviourChange
from harness.analysis.causality import Effect
from harness.analysis.comparison import LayerComparison, VersionComparison
from harness.analysis.controls import TextBaseline
from harness.analysis.layers import layer_id
from harness.data.pairs import Pair
from harness.report.sentences import comparison_headline
from harness.report.tables import comparison_table
from harness.stats import CategoryTransfer, DirectionDrift, StepSeparation
from tests.support.builders import SEPARATION, layer_result, responses, results_of
from tests.support.measured import change_of
from tests.support.pages import Page

NAN = math.nan
NAMES = ("one", "two", "three")
#: Figures of the chosen layer.
OF_A_LAYER = ["distribution", "pairs", "layer-categories", "layer-steps"]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings(action="error"):
        yield


def transfer(name, d, half=0.5):
    return CategoryTransfer(name, d, (d - half, d + half), 0.75, 13, 13, 0.01, 0.05)


def step(number, d, p=0.5):
    return StepSeparation(number, d, d, 0.75, p, p, 0.5, 16, 0.001, 0.002)


def full(layer=0, site="mlp_out", *, d=1.5, categories=NAMES, steps=4):
    """A result with everything that panels show."""
    other = replace(SEPARATION, d=d / 2, d_interval=(d / 2 - 0.5, d / 2 + 0.5))
    return replace(
        layer_result(layer, site, d=d, d_interval=(d - 0.5, d + 0.5), n_pairs=16),
        companions={"forced": other, "prompt_last": replace(other, d=0.1, d_interval=(-0.4, 0.6))},
        transfer=tuple(transfer(name, d + i) for i, name in enumerate(categories)),
        steps=tuple(step(i, d * i / 4, 0.001 if i > 2 else 0.6) for i in range(steps)),
    )


def compared(*bounds, site="mlp_out", drift=None, **changes):
    return {
        (layer, site): LayerComparison(layer, site, change_of(*ends, **changes), drift)
        for layer, ends in enumerate(bounds)
    }


def versions(layers, **changes):
    values = {
        "a": "0001_old",
        "b": "this run",
        "layers": layers,
        "categories": {},
        "margin": 0.5,
        "gained": (),
        "lost": (),
        "absent": (),
        "behaviour": (),
        "warnings": (),
    }
    return VersionComparison(**{**values, **changes})


class TestComparison:
    def test_headline(self):
        layers = compared((-0.25, 0.75), (1, 2), (-3, -1), (-2, -1))
        found = comparison_headline(versions(layers, lost=("layer_2-mlp_out", "layer_3-mlp_out")))
        assert found == (
            "Against 0001_old, of 4 layers 0 equivalent, 3 changed, 1 inconclusive within ±0.5; "
            "largest change of d -2.00 [-3.00, -1.00]. "
            "Separate no more: layer_2-mlp_out, layer_3-mlp_out."
            " Had d not changed at all, two versions whose activations differ as much as these "
            "would be called equivalent in all layers with probability 0.90."
        )
        found = comparison_headline(versions(layers, gained=("layer_1-mlp_out",)))
        assert " Separate now: layer_1-mlp_out. " in found

    def test_headline_says_where_the_direction_is_the_same(self):
        same, turned = (
            DirectionDrift(0.95, (0.9, 1.0), 0.02, verdict, 0.01, 0.9, 16, 16)
            for verdict in ("same", "turned")
        )
        layers = {
            key: replace(layer, drift=drift, separated=drift is not None)
            for (key, layer), drift in zip(
                compared((1, 2), (1, 2), (1, 2)).items(), (same, turned, None), strict=True
            )
        }
        found = comparison_headline(versions(layers))
        assert (
            " The direction is the same in 1 of the 2 layers that separated (cosine above" in found
        )

    def test_headline_of_one_layer(self):
        drift = DirectionDrift(0.95, (0.9, 1.0), 0.02, "same", 0.01, 0.9, 16, 16)
        found = comparison_headline(versions(compared((1, 2), drift=drift)))
        assert found.startswith("Against 0001_old, of 1 layer 0 equivalent, 1 changed")
        assert "in 1 of the 1 layer that separated" in found

    def test_headline_says_what_noise_changes(self):
        layers = {k: replace(v, noise=0.012) for k, v in compared((1, 2), (1, 2)).items()}
        found = comparison_headline(versions(layers))
        assert found.endswith("In other batches the same version's d differs by up to 0.012.")

    def test_headline_names_the_category_that_changed_most(self):
        categories = {
            "one": {"layer_0-mlp_out": -1.0, "layer_1-mlp_out": -0.5},
            "two": {"layer_0-mlp_out": 0.5, "layer_1-mlp_out": 0.5},
            "gone": {},
        }
        found = comparison_headline(versions(compared((1, 2)), categories=categories))
        assert " Of the categories, one changed most: -0.75 on average over layers. " in found
        del categories["two"]
        found = comparison_headline(versions(compared((1, 2)), categories=categories))
        assert "categories" not in found, "there is but one"

    def test_headline_where_a_change_is_not_defined(self):
        for bounds in ([(NAN, NAN), (1, 2)], [(1, 2), (NAN, NAN)]):
            assert "largest change of d +1.50" in comparison_headline(versions(compared(*bounds)))

    def test_table(self):
        drift = DirectionDrift(0.987, (0.9, 1.1), 0.05, "same", 1.0, 0.9, 16, 16)
        header, *lines = comparison_table(
            versions({**compared((1, 2), drift=drift), **compared((-12, -10), site="attn_out")})
        )
        assert header.split() == [
            "d", "then", "d", "now", "change", "d", "cosine", "direction",
        ]  # fmt: skip
        one, other = (line.split() for line in lines)
        assert one == ["layer_0-mlp_out", "1.25", "2.75", "+1.50", "[1.00,", "2.00]", "changed",
                       "0.99", "same"]  # fmt: skip
        assert other[0] == "layer_0-attn_out"
        assert other[-2] == "–"
        assert other[-1] == "–"
        assert len({line.rindex("changed") for line in lines}) == 1


def effect(kind, **changes):
    values = {
        "kind": kind,
        "shift": 0.321,
        "shift_interval": (0.111, 0.531),
        "own_shift": 0.444,
        "random_shift": 0.123,
        "p_value": 0.0196,
        "p_adjusted": 0.0392,
        "divergence": 0.0456,
        "random_divergence": 0.0321,
        "n_pairs": 16,
        "n_random": 50,
    }
    return Effect(**{**values, **changes})


class TestReport:
    def page(self, *results, **changes):
        return Page(results_of(*results, **changes).page())

    def test_everything(self):
        drift = DirectionDrift(0.87, (0.81, 0.93), 0.03, "inconclusive", 0.2, 0.9, 16, 16)
        page = self.page(
            replace(full(0), beyond_base=change_of(0.25, 0.75)),
            full(1),
            comparison=versions(
                compared((1, 2), (-0.25, 0.75), drift=drift),
                lost=("layer_1-mlp_out",),
                warnings=("blas: one then, another now",),
                categories={"one": {"layer_0-mlp_out": -0.5}, "two": {"layer_0-mlp_out": 0.25}},
                behaviour=(BehaviourChange("artifact", 0.9, 0.62, -0.28, (-0.4, -0.16)),),
            ),
            interventions={(1, "mlp_out"): (effect("add"), effect("ablate", own_shift=-0.777))},
            text=(
                TextBaseline("prompt_words", "which words the prompt has", SEPARATION, {}),
            ),
        )  # fmt: skip
        for part in (
            "Against the baseline",
            "blas: one then, another now",
            "Against 0001_old, of 2 layers 0 equivalent, 1 changed, 1 inconclusive",
            "Separate no more: layer_1-mlp_out. Of the categories, one changed most: -0.50",
            "Change by category",
            "0.87 [0.81, 0.93]",
            "+1.50",
            "artifact 90% 62% -28% [-40%, -16%]",
            "Is it the words, or the model?",
            "With the same words after both prompts, d is at most 0.75.",
            "One direction for all categories?",
            "The weakest is one with d = 1.50 [1.00, 2.00].",
            "At which token?",
            "Does the model use the direction?",
            "+0.444 +0.123 +0.321 [+0.111, +0.531] 0.020 0.039 0.0456 0.0321",
            "-0.777",
            "What the text alone gives",
            "which words the prompt has",
            "beyond base",
            "+0.50 [0.25, 0.75]",
        ):  # fmt: skip
            assert part in page.text, part
        assert page.figures == [
            *OF_A_LAYER, "effect", "accuracy", "positions", "categories", "steps", "change",
            "change-categories",
        ]  # fmt: skip

    def test_what_is_not_there_is_not_spoken_of(self):
        page = self.page(layer_result(0, n_pairs=16))
        for part in (
            "Against", "Is it the words", "One direction", "At which token",
            "Does the model use the direction", "What the text alone", "beyond base",
        ):  # fmt: skip
            assert part not in page.text, part
        assert page.figures == [*OF_A_LAYER, "effect", "accuracy"]

    def test_other_positions_without_forced_ones(self):
        result = full()
        del result.companions["forced"]
        page = self.page(result)
        assert "Is it the words, or the model?" in page.text
        assert "at most" not in page.text

    def test_d_that_is_not_defined_with_the_same_words(self):
        nowhere, somewhere = full(0), full(1)
        for result in (nowhere, somewhere):
            result.companions["forced"] = replace(SEPARATION, d=NAN, d_interval=(NAN, NAN))
        assert "at most" not in self.page(nowhere).text
        somewhere.companions["forced"] = replace(SEPARATION, d=0.75)
        for results in ((nowhere, somewhere), (somewhere, nowhere)):
            assert "d is at most 0.75." in self.page(*results).text

    def test_layers_without_categories(self):
        page = self.page(replace(full(0), transfer=()), full(1))
        assert {"categories", "steps"} <= set(page.figures)
        page = self.page(replace(full(0), transfer=()))
        assert "categories" not in page.figures
        assert "steps" in page.figures

    @pytest.mark.parametrize(
        "text", ["<script>x</script>", '"><img src=x onerror=y>', "</div>&lt;"]
    )
    def test_texts_are_escaped(self, text):
        result = full(categories=(text, "two"))
        found = self.page(
            replace(result, companions={text: SEPARATION, **result.companions}),
            comparison=versions(
                compared((1, 2)),
                a=text,
                gained=(text,),
                warnings=(text,),
                categories={text: {"layer_0-mlp_out": 1.0}, "two": {"layer_0-mlp_out": 0.5}},
            ),

            text=(TextBaseline(text, text, SEPARATION, {}),),
            provenance={"model": text, "collection": {"positions": text}},
            responses=(
                responses(Pair("one", "q0", text, text), natural=text, artifact=text),
            ),
        )  # fmt: skip
        assert found.tags.count("script") == 2
        assert not {"img", "x"} & set(found.tags)
        assert found.text.count(text) >= 6

    def test_ids_of_the_causal_table(self):
        result = replace(full(), layer=17, site="resid_post")
        key = (17, "resid_post")
        page = self.page(result, interventions={key: (effect("add"), effect("ablate"))})
        rows = re.findall(rf"{layer_id(*key)} (add|ablate) (\S+) ", page.text)
        assert rows == [("add", "holds"), ("ablate", "doesn't")]
        assert f"The model uses the direction at {layer_id(*key)} (add)." in page.text
