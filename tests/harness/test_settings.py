"""Settings that can't be used are refused when they are made, by name."""

import math

import pytest

from gemma_mlx import RequestError
from harness.settings import AnalysisSettings, CausalSettings, Criteria


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        (AnalysisSettings, "scale", "std"),
        (AnalysisSettings, "direction", "lda"),
        (AnalysisSettings, "replicates", 99),
        (AnalysisSettings, "replicates", 1e4),
        (AnalysisSettings, "level", 95),
        (AnalysisSettings, "level", math.nan),
        (AnalysisSettings, "seed", -1),
        (CausalSettings, "directions", 0),
        (Criteria, "d_threshold", math.nan),
        (Criteria, "alpha", 0.5),
        (Criteria, "margin", 0),
        (Criteria, "cosine", 1),
    ],
)
def test_a_value_out_of_range(settings, name, value):
    with pytest.raises(RequestError, match=rf"^{name} must be .*, not {value!r}$"):
        settings(**{name: value})
    settings()
