"""Results in a notebook: they show themselves, and wrong arguments are named."""

import json
import re

import numpy as np
import pytest

import gemma_mlx
from gemma_mlx.errors import UserError
from harness import Experiment
from tests.support.builders import layer_result, results_of
from tests.support.texts import ROOT

PNG = b"\x89PNG\r\n"


def test_results_show_verdict_table_and_figure():
    shown = results_of(layer_result(0), layer_result(1))._repr_html_()
    assert "2 of 2 layers separate" in shown
    assert "<td>layer_1-mlp_out</td>" in shown
    assert re.search(r'<img alt="[^"]+" src="data:image/png;base64,iVBOR', shown)


@pytest.mark.slow
def test_plot_shows_itself_and_is_saved(tmp_path):
    plot = results_of(layer_result()).plot()
    assert plot._repr_png_().startswith(PNG)
    plot.save(tmp_path / "a" / "plot.png")
    plot.save(tmp_path / "plot.SVG")
    assert (tmp_path / "a" / "plot.png").read_bytes().startswith(PNG)
    assert b"<svg" in (tmp_path / "plot.SVG").read_bytes()
    with pytest.raises(UserError, match=r"^path: 'plot.pdf'; must end in .png or .svg$"):
        plot.save("plot.pdf")


def test_a_layer_that_is_not_there_is_told():
    results = results_of(layer_result(0))
    with pytest.raises(KeyError, match=r"6: ask for \(layer, site\), one of \(0, 'mlp_out'\)"):
        results[6]
    assert (6, "mlp_out") not in results


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_tokens", 0), ("max_tokens", "20"), ("max_tokens", True), ("batch_size", -1),
        ("tensor_parallel", 1.5), ("layers", "6"), ("layers", 6), ("layers", [-1]),
        ("layers", [1.0]), ("model", 3), ("pairs", {}), ("settings", {"alpha": 1}),
        ("sites", "mlp_out"), ("sites", ["nonsense"]), ("positions", "nowhere"),
        ("companions", ["nowhere"]),
    ],
)  # fmt: skip
def test_argument_errors_name_the_argument(argument, value):
    with pytest.raises(gemma_mlx.RequestError, match=f"^{argument}: "):
        Experiment(**{argument: value})


@pytest.mark.parametrize("layers", [None, [6], range(3), (np.int64(1),), np.arange(3), {1, 2}])
def test_layers(layers):
    assert Experiment(layers=layers).layers is layers


def test_the_notebook_of_the_docs_was_run():
    content = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells)
    assert "text/html" in cells[0]["outputs"][0]["data"]
    assert "/tmp" not in json.dumps(content)
