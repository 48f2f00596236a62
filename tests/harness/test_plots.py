"""Figures that draw whatever the results are, with their intervals, and the same each time."""

import io
import math
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images

from harness.report.plots import separation_figure, to_bytes
from harness.settings import Criteria
from tests.support.builders import layer_result, results_of

NAN = math.nan

SHAPES = {
    "one layer": [layer_result(0)],
    "26 layers, 3 sites": [
        layer_result(layer, site, d=layer / 10, d_interval=(layer / 10 - 1, layer / 10 + 1))
        for site in ("mlp_out", "attn_out", "resid_post")
        for layer in range(26)
    ],
    "no d": [
        layer_result(0, d=NAN, d_interval=(NAN, NAN), d_z=NAN, null_quantile_95=NAN),
        layer_result(1),
    ],
    "no d anywhere": [layer_result(0, d=NAN, d_interval=(NAN, NAN), d_z=NAN, null_quantile_95=NAN)],
    "infinite d_z": [layer_result(0, d_z=math.inf), layer_result(1)],
    "infinite d": [
        layer_result(0, d=math.inf, d_interval=(math.inf, math.inf), d_z=math.inf),
        layer_result(1),
    ],
    "62 layers": [layer_result(layer) for layer in range(62)],
    "far below 0": [layer_result(0, d=-30.0, d_interval=(-40.0, -20.0))],
}


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings(action="error"):
        yield


def intervals(axes) -> list[tuple[float, float]]:
    """Ends of the vertical lines, from left to right."""
    found = []
    for collection in axes.collections:
        if isinstance(collection, LineCollection):
            for (x, low), (same, high) in collection.get_segments():
                assert x == same
                found.append((x, low, high))
    return [(low, high) for _, low, high in sorted(found)]


class TestSeparationFigure:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["svg", "png"])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_draws(self, shape, kind):
        content = to_bytes(separation_figure(results_of(*SHAPES[shape])), kind)
        if kind == "svg":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            picture = matplotlib.image.imread(io.BytesIO(content))
            assert picture.shape[0] > 500
            assert picture.std() > 0.01

    def test_intervals_are_drawn(self):
        layers = [
            layer_result(0, d_interval=(-0.5, 0.5), accuracy_interval=(0.4, 0.6)),
            layer_result(1, d_interval=(1.25, 2.5), accuracy_interval=(0.6, 0.95)),
        ]
        top, bottom = separation_figure(results_of(*layers)).axes
        assert intervals(top) == [(-0.5, 0.5), (1.25, 2.5)]
        assert intervals(bottom) == [(0.4, 0.6), (0.6, 0.95)]

    def test_estimates_are_drawn_where_they_are(self):
        layers = [layer_result(2, d=0.25, accuracy=0.6), layer_result(9, d=2.5, accuracy=0.9)]
        top, bottom = separation_figure(results_of(*layers)).axes
        for axes, values in ((top, [0.25, 2.5]), (bottom, [0.6, 0.9])):
            lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
            assert ([2, 9], values) in lines

    def test_threshold_and_chance(self):
        top, bottom = separation_figure(results_of(layer_result(), criteria=Criteria(0.65))).axes
        assert any(list(line.get_ydata()) == [0.65, 0.65] for line in top.lines)
        assert any(list(line.get_ydata()) == [0.5, 0.5] for line in bottom.lines)
        assert {"threshold 0.65"} <= {text.get_text() for text in top.texts}
        assert {"chance"} <= {text.get_text() for text in bottom.texts}

    def test_says_whose_it_is(self):
        facts = {"model": "an/owner's $model$", "model_fingerprint": "ab" * 32}
        found = results_of(layer_result(), provenance=facts)
        (legend,) = separation_figure(found).legends
        assert legend.get_title().get_text() == "an/owner's $model$ (abababab)"

    def test_in_sample_figures_are_drawn(self):
        top, bottom = separation_figure(results_of(layer_result())).axes
        assert any(list(line.get_ydata()) == [4.0] for line in top.lines)
        assert any(list(line.get_ydata()) == [0.97] for line in bottom.lines)

    def test_met_and_missed_are_told_apart_without_colour(self):
        layers = [layer_result(0), layer_result(1, d_interval=(0.1, 0.2))]
        top, _ = separation_figure(results_of(*layers)).axes
        faces = {
            float(line.get_xdata()[0]): line.get_markerfacecolor()
            for line in top.lines
            if line.get_marker() == "o"
        }
        assert faces[1.0] == "white" != faces[0.0]

    def test_sites_have_curves_of_their_own(self):
        figure = separation_figure(results_of(*SHAPES["26 layers, 3 sites"]))
        labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        for site in ("mlp_out", "attn_out", "resid_post"):
            assert any(site in label for label in labels)
        assert len(intervals(figure.axes[0])) == 78

    def test_everything_is_within_the_frame(self):
        layers = [layer_result(0, accuracy=0.1, accuracy_interval=(0.02, 0.2))]
        _, bottom = separation_figure(results_of(*layers)).axes
        low, high = bottom.get_ylim()
        assert low < 0.02
        assert high > 1


class TestBytes:
    def test_same_picture_same_bytes(self):
        pictures = {
            to_bytes(separation_figure(results_of(layer_result())), "svg") for _ in range(2)
        }
        assert len(pictures) == 1

    def test_other_picture_other_bytes(self):
        pictures = {
            to_bytes(separation_figure(results_of(layer_result(d=d))), "svg") for d in (1.2, 1.3)
        }
        assert len(pictures) == 2

    def test_users_settings_do_not_matter(self):
        with matplotlib.rc_context({"svg.hashsalt": "mine", "font.size": 20, "axes.grid": False}):
            other = to_bytes(separation_figure(results_of(layer_result())), "svg")
        assert other == to_bytes(separation_figure(results_of(layer_result())), "svg")

    def test_no_figure_is_left_open(self):
        from matplotlib import pyplot

        assert isinstance(separation_figure(results_of(layer_result())), Figure)
        assert pyplot.get_fignums() == []
        assert np.isfinite(matplotlib.rcParams["font.size"])


LAYERS = [
    layer_result(
        layer,
        d=layer / 2,
        d_interval=(layer / 2 - 0.4, layer / 2 + 0.5),
        accuracy=0.5 + layer / 15,
        accuracy_interval=(0.45 + layer / 15, 0.55 + layer / 15),
        p_adjusted=0.5 / 10**layer,
    )
    for layer in range(6)
]


class TestPictures:
    """Figures as they were when someone looked at them, in `images`. One that changed on purpose
    is looked at and copied there from the folder that the failure names."""

    IMAGES = Path(__file__).parent / "images"

    def test_looks_as_it_did(self, tmp_path):
        actual = tmp_path / "separation.png"
        actual.write_bytes(to_bytes(separation_figure(results_of(*LAYERS)), "png"))
        # Room for another FreeType; six markers of another shape come to 2.6.
        difference = compare_images(str(self.IMAGES / actual.name), str(actual), tol=1)
        assert difference is None, difference
