"""Figures of the controls: whatever there is draws, with its intervals; the report holds them."""

import io
import math
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import LineCollection

from harness.analysis.causality import Effect
from harness.analysis.comparison import LayerComparison, VersionComparison
from harness.analysis.controls import TextBaseline
from harness.analysis.layers import layer_id
from harness.data.pairs import Pair
from harness.report import panels, plots
from harness.report.page import summary_html
from harness.report.plots import to_bytes
from harness.report.sentences import comparison_headline
from harness.report.tables import comparison_table
from harness.stats import CategoryTransfer, DirectionDrift, StepSeparation
from tests.support.builders import SEPARATION, analysis_of, layer_result, responses, results_of
from tests.support.measured import change_of

NAN, INFINITY = math.nan, math.inf
SITES = ("mlp_out", "attn_out", "resid_post")
NAMES = ("one", "two", "three")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings(action="error"):
        yield


def transfer(name, d, half=0.5):
    return CategoryTransfer(name, d, (d - half, d + half), 0.75, 13, 13, 0.5, 0.5)


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


SHAPES = {
    "one layer": [full()],
    "26 layers, 3 sites": [full(n, site, d=n / 10) for site in SITES for n in range(26)],
    "62 layers": [full(n, d=1 + n / 10) for n in range(62)],
    "one category": [full(categories=("one",)), full(1, categories=("one",))],
    "one token": [full(steps=1)],
    "fewer tokens in a layer": [full(0, steps=4), full(1, steps=2)],
    "layers without categories or tokens": [layer_result(0, n_pairs=16), full(1)],
    "far below 0": [full(d=-30.0)],
}


def drawn(figure, kind="svg"):
    """Whether the figure comes out as a picture."""
    content = to_bytes(figure, kind)
    if kind == "svg":
        assert ElementTree.fromstring(content).tag.endswith("svg")
    else:
        picture = matplotlib.image.imread(io.BytesIO(content))
        assert picture.shape[0] > 200
        assert picture.std() > 0.01


def intervals(axes):
    """Ends of the vertical lines, from left to right."""
    found = [
        (x, low, high)
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for (x, low), (_, high) in collection.get_segments()
    ]
    return [(low, high) for _, low, high in sorted(found)]


def ticks(axes):
    return [label.get_text() for label in axes.get_xticklabels()]


def image(axes):
    return np.ma.filled(axes.images[0].get_array().astype(float), NAN)


class TestPositions:
    @pytest.mark.slow
    @pytest.mark.parametrize("shape", ["one layer", "26 layers, 3 sites", "far below 0"])
    def test_draws(self, shape):
        drawn(panels.positions_figure(analysis_of(*SHAPES[shape])))

    def test_a_curve_for_each_with_its_intervals(self):
        analysis = analysis_of(
            full(2), full(5, d=3.0), provenance={"collection": {"positions": "generated"}}
        )
        figure = panels.positions_figure(analysis)
        (axes,) = figure.axes
        curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert curves["generated: each prompt's own answer"] == [1.5, 3.0]
        assert curves["forced: the natural answer after both prompts"] == [0.75, 1.5]
        assert curves["prompt_last: nothing written yet"] == [0.1, 0.1]
        assert sorted(intervals(axes)) == sorted(
            [(1.0, 2.0), (2.5, 3.5), (0.25, 1.25), (1.0, 2.0), (-0.4, 0.6), (-0.4, 0.6)]
        )
        assert ticks(axes) == ["2", "5"]
        (legend,) = figure.legends
        assert len(legend.get_texts()) == 3

    def test_positions_of_the_run_that_are_not_known(self):
        (axes,) = panels.positions_figure(analysis_of(full(), provenance={})).axes
        assert "this run" in {line.get_label() for line in axes.lines}

    def test_d_that_is_not_defined(self):
        result = full()
        result.companions["forced"] = replace(SEPARATION, d=NAN, d_interval=(NAN, NAN))
        drawn(panels.positions_figure(analysis_of(result, full(1))))


class TestCategories:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "shape",
        [
            "one layer", "26 layers, 3 sites", "one category", "far below 0",
            "layers without categories or tokens",
        ],
    )  # fmt: skip
    def test_draws(self, shape):
        drawn(panels.category_figure(analysis_of(*SHAPES[shape])))

    def test_values_are_in_their_places(self):
        axes, _ = panels.category_figure(analysis_of(full(2), full(5, d=-3.0))).axes
        np.testing.assert_array_equal(image(axes), [[1.5, -3.0], [2.5, -2.0], [3.5, -1.0]])
        assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
        assert ticks(axes) == ["2", "5"]
        texts = {text.get_position(): text.get_text() for text in axes.texts}
        assert texts[0, 0] == "1.5"
        assert texts[1, 2] == "-1.0"
        low, high = axes.images[0].get_clim()
        assert low == -high == -3.5, "white is 0"

    def test_numbers_are_left_out_where_there_is_no_room(self):
        axes, _ = panels.category_figure(analysis_of(*map(full, range(13)))).axes
        assert not axes.texts

    def test_d_that_is_not_defined(self):
        nowhere = replace(full(), transfer=(transfer("one", NAN), transfer("two", -0.01)))
        figure = panels.category_figure(analysis_of(nowhere))
        drawn(figure, "png")
        assert [text.get_text() for text in figure.axes[0].texts] == ["–", "0.0"]

    @pytest.mark.parametrize("d", [NAN, INFINITY, -INFINITY])
    def test_nothing_finite(self, d):
        nowhere = replace(full(), transfer=(transfer("one", d), transfer("two", d)))
        drawn(panels.category_figure(analysis_of(nowhere)))

    def test_says_nothing_of_four_categories_where_there_are_three(self):
        axes, _ = panels.category_figure(analysis_of(full())).axes
        assert "four" not in axes.get_title(loc="left")


class TestSteps:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "shape",
        [
            "one layer", "62 layers", "one token", "fewer tokens in a layer",
            "layers without categories or tokens", "far below 0",
        ],
    )  # fmt: skip
    def test_draws(self, shape):
        drawn(panels.step_figure(analysis_of(*SHAPES[shape]), 0.05))

    def test_values_and_marks(self):
        analysis = analysis_of(full(2), full(5, steps=2, d=4.0))
        axes, _ = panels.step_figure(analysis, 0.05).axes
        np.testing.assert_array_equal(image(axes), [[0, 0], [0.375, 1], [0.75, NAN], [1.125, NAN]])
        (marks,) = axes.lines
        assert list(zip(*marks.get_data(), strict=True)) == [(0, 3)]
        assert "p < 0.05" in axes.get_title(loc="left")

    def test_alpha(self):
        axes, _ = panels.step_figure(analysis_of(full()), 0.0005).axes
        assert not axes.lines
        axes, _ = panels.step_figure(analysis_of(full()), 0.7).axes
        assert len(axes.lines[0].get_xdata()) == 4

    def test_ticks_are_thinned(self):
        axes, _ = panels.step_figure(analysis_of(*SHAPES["62 layers"]), 0.05).axes
        assert ticks(axes) == [str(n) for n in range(0, 62, 2)]

    def test_ticks_name_the_site_where_there_are_several(self):
        axes, _ = panels.step_figure(analysis_of(full(3), full(3, "attn_out")), 0.05).axes
        assert ticks(axes) == ["3 mlp_out", "3 attn_out"]


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
    def test_values(self):
        layers = compared((-0.25, 0.75), (1, 2), (-2, -1))
        figure = panels.comparison_figure(versions(layers))
        (axes,) = figure.axes
        assert intervals(axes) == [(-0.25, 0.75), (1, 2), (-2, -1)]
        points = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert points["changed"] == [1.5, -1.5]
        assert points["inconclusive"] == [0.25]
        assert axes.get_title(loc="left") == "Change of d from 0001_old"
        assert "margin ±0.5" in axes.get_legend_handles_labels()[1]
        assert ticks(axes) == ["0", "1", "2"]
        drawn(figure, "png")

    @pytest.mark.slow
    def test_draws_26_layers_of_3_sites(self):
        layers = {
            key: value
            for site in SITES
            for key, value in compared(
                *[(n / 10, n / 10 + 1) for n in range(26)], site=site
            ).items()
        }
        drawn(panels.comparison_figure(versions(layers)))

    @pytest.mark.parametrize("end", [NAN, INFINITY])
    def test_change_that_is_not_defined(self, end):
        drawn(panels.comparison_figure(versions(compared((end, end), (1, 2)))))

    def test_headline(self):
        layers = compared((-0.25, 0.75), (1, 2), (-3, -1), (-2, -1))
        found = comparison_headline(versions(layers, lost=("layer_2-mlp_out", "layer_3-mlp_out")))
        assert found == (
            "Against 0001_old, of 4 layers 0 equivalent, 3 changed, 1 inconclusive within ±0.5; "
            "largest change of d -2.00 [-3.00, -1.00]. "
            "Separate no more: layer_2-mlp_out, layer_3-mlp_out."
            " With activations that agree as far as these do, a model in which nothing changed "
            "would be equivalent in all layers with probability 0.90."
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

    def test_categories(self):
        layers = compared((1, 2), (1, 2))
        categories = {
            "one": {"layer_0-mlp_out": -1.0, "layer_1-mlp_out": 2.0},
            "two": {"layer_1-mlp_out": 0.5},
        }
        figure = panels.category_change_figure(versions(layers, categories=categories))
        axes, _ = figure.axes
        np.testing.assert_array_equal(image(axes), [[-1.0, 2.0], [NAN, 0.5]])
        assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
        assert [text.get_text() for text in axes.texts] == ["-1.0", "2.0", "–", "0.5"]
        assert ticks(axes) == ["0", "1"]
        assert "0001_old" in axes.get_title(loc="left")
        drawn(figure)

    @pytest.mark.slow
    def test_categories_of_26_layers_and_3_sites(self):
        layers = {k: v for site in SITES for k, v in compared(*[(1, 2)] * 26, site=site).items()}
        changes = {"one": {layer_id(*key): key[0] / 10 for key in layers}, "two": {}}
        drawn(panels.category_change_figure(versions(layers, categories=changes)))

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


class Page(HTMLParser):
    """Tags and texts of a page; everything that is opened has to be closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.texts, self.sources = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


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
    @pytest.fixture(autouse=True)
    def _quick_pictures(self, monkeypatch):
        monkeypatch.setattr(plots, "to_bytes", lambda *_: b"<svg/>")

    def page(self, *results, **changes):
        return Page(summary_html(results_of(*results, **changes)))

    def test_everything(self):
        drift = DirectionDrift(0.87, (0.81, 0.93), 0.03, "inconclusive", 0.2, 0.9, 16, 16)
        page = self.page(
            replace(full(0), beyond_base=change_of(0.25, 0.75)),
            full(1),
            comparison=versions(
                compared((1, 2), (-0.25, 0.75), drift=drift),
                lost=("layer_1-mlp_out",),
                categories={"one": {"layer_0-mlp_out": -0.5}, "two": {"layer_0-mlp_out": 0.25}},
            ),
            interventions={(1, "mlp_out"): (effect("add"), effect("ablate", own_shift=-0.777))},
            text=(
                TextBaseline("prompt_words", "which words the prompt has", SEPARATION, {}),
            ),
        )  # fmt: skip
        for part in (
            "Against the baseline",
            "Against 0001_old, of 2 layers 0 equivalent, 1 changed, 1 inconclusive",
            "Separate no more: layer_1-mlp_out. Of the categories, one changed most: -0.50",
            "Against the baseline, by category",
            "0.87 [0.81, 0.93]",
            "+1.50",
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
        assert page.tags.count("img") == 7
        assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)

    def test_what_is_not_there_is_not_spoken_of(self):
        page = self.page(layer_result(0, n_pairs=16))
        for part in (
            "Against", "Is it the words", "One direction", "At which token",
            "Does the model use the direction", "What the text alone", "beyond base",
        ):  # fmt: skip
            assert part not in page.text, part
        assert page.tags.count("img") == 2

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
        assert "One direction for all categories?" not in page.text
        assert "At which token?" in page.text

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
                categories={text: {"layer_0-mlp_out": 1.0}, "two": {"layer_0-mlp_out": 0.5}},
            ),

            text=(TextBaseline(text, text, SEPARATION, {}),),
            provenance={"model": text, "collection": {"positions": text}},
            responses=(
                responses(Pair("one", "q0", text, text), natural=text, artifact=text),
            ),
        )  # fmt: skip
        assert found.tags.count("script") == 1
        assert found.tags.count("img") == 7
        assert found.text.count(text) >= 6

    def test_ids_of_the_causal_table(self):
        result = replace(full(), layer=17, site="resid_post")
        key = (17, "resid_post")
        page = self.page(result, interventions={key: (effect("add"), effect("ablate"))})
        rows = re.findall(rf"{layer_id(*key)} (add|ablate) (\w+) ", page.text)
        assert rows == [("add", "passed"), ("ablate", "failed")]
        assert f"The model uses the direction at {layer_id(*key)} (add)." in page.text
