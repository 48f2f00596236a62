"""What the statistics take where nothing is said, and the settings and options with them.

It stands apart so that options can be declared before NumPy is imported.
"""

from typing import Literal

#: How dimensions are weighed: by the variance over the training pairs' prompts, or all alike.
Scale = Literal["sd", "raw"]

#: What a direction is: the mean difference, or that times the inverse of a shrunk covariance.
Direction = Literal["mean", "shrinkage"]

#: Fewest distinct pairs that anything is estimated from.
MIN_PAIRS = 8

#: More layers than any model has.
MOST_LAYERS = 10_000

#: Sign flips and bootstrap replicates.
REPLICATES = 10_000

#: Nominal coverage of intervals.
LEVEL = 0.95

#: Family-wise significance level.
ALPHA = 0.05

#: Smallest cosine between two versions' directions that counts as the same direction.
COSINE = 0.9

#: Largest change of d between two versions that counts as none.
MARGIN = 0.5

#: Random directions that an intervention's own is held against.
DIRECTIONS = 200

#: Metadata of a dataclass' field that no file holds.
UNSAVED = {"saved": False}
