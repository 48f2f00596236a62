"""How far apart matched prompts lie in activation space, with error rates that hold.

Pure functions over NumPy arrays; nothing here knows of models, files or pytest. The method in
plain words is in `docs/statistics.md`, its measured error rates in `docs/calibration.md`.
"""

from harness.defaults import MIN_PAIRS, Scale
from harness.stats.arrays import average_duplicates, distinct_pairs, finite_pairs, pair_means
from harness.stats.compare import Comparison, compare
from harness.stats.following import Following, TooFewError, following
from harness.stats.insample import InSampleSeparation, in_sample_separation
from harness.stats.kernels import fold_directions
from harness.stats.power import (
    clearing_effect,
    pairs_needed,
    pairs_to_decide,
    smallest_detectable_effect,
    smallest_passing_effect,
)
from harness.stats.quality import (
    DirectionDrift,
    PairQuality,
    debiased_cka,
    direction_drift,
    pair_quality,
)
from harness.stats.randomization import RankTest, rank_test
from harness.stats.secondary import (
    CategoryTransfer,
    StepSeparation,
    leave_one_category_out,
    step_curve,
)
from harness.stats.separation import Separation, separation
from harness.stats.text import bag_of_tokens, text_lengths
from harness.stats.tokens import token_scores

__all__ = [
    "MIN_PAIRS",
    "CategoryTransfer",
    "Comparison",
    "DirectionDrift",
    "Following",
    "InSampleSeparation",
    "PairQuality",
    "RankTest",
    "Scale",
    "Separation",
    "StepSeparation",
    "TooFewError",
    "average_duplicates",
    "bag_of_tokens",
    "clearing_effect",
    "compare",
    "debiased_cka",
    "direction_drift",
    "distinct_pairs",
    "finite_pairs",
    "fold_directions",
    "following",
    "in_sample_separation",
    "leave_one_category_out",
    "pair_means",
    "pair_quality",
    "pairs_needed",
    "pairs_to_decide",
    "rank_test",
    "separation",
    "smallest_detectable_effect",
    "smallest_passing_effect",
    "step_curve",
    "text_lengths",
    "token_scores",
]
