"""Time `harness.stats`, against a loop that refits and against SciPy's permutation test.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.statistics

Prints a Markdown table. Times are processor time, the best of a few repetitions: with BLAS held to
one thread as above, what one core takes when nothing else runs on it.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from benchmarks.calibration.reference import Array, flipped, refit
from benchmarks.page import command_line, machine, table
from harness.stats import separation
from harness.stats.clusters import Clusters
from harness.stats.kernels import halves, inverse_variances, kernels
from harness.stats.resample import Flipper, sign_flips

LAYERS, PAIRS, HIDDEN, REPLICATES = 26, 50, 1152, 10_000


def best(call: Callable[[], object], repetitions: int = 3) -> float:
    """Processor seconds of the fastest repetition."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def noise(layers: int, pairs: int, hidden: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    artifact, natural = rng.standard_normal((2, layers, pairs, hidden), dtype=np.float32)
    return artifact, natural


def whole_run(pairs: int, repetitions: int) -> float:
    arms = noise(LAYERS, pairs, HIDDEN)
    return best(
        lambda: separation(*arms, permutations=REPLICATES, bootstrap=REPLICATES), repetitions
    )


def replicate(hidden: int) -> float:
    """Seconds for one flip of one layer, kernels given."""
    artifact, natural = noise(1, PAIRS, hidden)
    flipper = Flipper(kernels(artifact[0], natural[0]))
    signs = sign_flips(PAIRS, REPLICATES, np.random.default_rng(0))
    return best(lambda: flipper.null(signs), 15) / REPLICATES


def refit_loop(replicates: int = 5) -> float:
    """Seconds for one flip of one layer, every direction fitted from scratch."""
    artifact, natural = (arm[0].astype(float) for arm in noise(1, PAIRS, HIDDEN))
    signs = sign_flips(PAIRS, replicates, np.random.default_rng(0))
    return best(lambda: [refit(*flipped(artifact, natural, row)) for row in signs]) / replicates


def scipy_test(artifact: Array, natural: Array, flips: int) -> float:
    """p by SciPy, with a statistic that is vectorised over flips but knows no kernels."""
    delta, middle = halves(artifact, natural)
    weights = inverse_variances(delta, middle, "sd", Clusters.from_labels(None, len(delta)))
    scaled = delta * np.sqrt(weights.overall)
    weighted = delta * weights.fold
    own = (weighted * delta).sum(axis=1)
    squares = (scaled**2).sum(axis=1)

    def statistic(signs: Array, _: Array, axis: int) -> Array:
        flips = np.moveaxis(signs, axis, -1)
        difference = flips * ((flips @ delta) @ weighted.T) - own
        total = flips @ scaled
        norm = (total**2).sum(axis=-1, keepdims=True) - 2 * flips * (total @ scaled.T) + squares
        scores = difference / np.sqrt(norm)
        return np.asarray(scores.mean(axis=-1) / scores.std(axis=-1, ddof=1))

    # Swapping +1 and −1 within pairs is a flip, so the first sample is the pattern of signs.
    plus = np.ones(len(delta))
    result = permutation_test(
        (plus, -plus),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=flips,
        batch=500,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def main(arguments: list[str] | None = None) -> None:
    parser = command_line("statistics", __doc__)
    parser.add_argument("--large", action="store_true", help="also 500 pairs (a minute)")
    options = parser.parse_args(arguments)

    default = whole_run(PAIRS, 5)
    rows = [
        (
            "default run: 50 pairs × 26 layers × 1152, 10,000 + 10,000 replicates",
            f"{default:.2f} s",
        ),
        ("the same with 100 pairs", f"{whole_run(100, 3):.2f} s"),
        ("the same with 200 pairs", f"{whole_run(200, 2):.2f} s"),
    ]
    if options.large:
        rows.append(("the same with 500 pairs", f"{whole_run(500, 1):.1f} s"))

    cost = {hidden: replicate(hidden) for hidden in (64, 1152, 5376, 16384)}
    per_flip = ", ".join(f"{1e6 * s:.2f} µs at {hidden}" for hidden, s in cost.items())
    spread = max(cost.values()) / min(cost.values()) - 1
    rows.append((f"one flip of one layer, 50 pairs (spread {spread:.0%})", per_flip))

    loop = refit_loop()
    extrapolated = loop * REPLICATES * LAYERS
    rows += [
        ("one flip of one layer by an explicit refit (timed on 5)", f"{1e3 * loop:.1f} ms"),
        ("… 10,000 flips × 26 layers of it, extrapolated", f"{extrapolated / 3600:.1f} h"),
        ("… over our default run, bootstrap included", f"{extrapolated / default:,.0f} ×"),
    ]

    artifact, natural = (arm[0].astype(float) for arm in noise(1, PAIRS, HIDDEN))
    theirs = best(lambda: scipy_test(artifact, natural, REPLICATES), 2)
    ours = best(
        lambda: separation(artifact[None], natural[None], permutations=REPLICATES, bootstrap=0)
    )
    (result,) = separation(artifact[None], natural[None], permutations=REPLICATES, bootstrap=0)
    agreed = f"p {result.p_value:.3f} and {scipy_test(artifact, natural, REPLICATES):.3f}"
    rows += [
        ("one layer, 10,000 flips, ours", f"{ours:.3f} s"),
        (f"… `scipy.stats.permutation_test`, vectorised statistic ({agreed})", f"{theirs:.2f} s"),
        ("… ratio", f"{theirs / ours:.0f} ×"),
    ]
    print(f"Measured on {machine('NumPy', 'SciPy')}.\n\n{table(('what', 'time'), rows)}")


if __name__ == "__main__":
    main()
