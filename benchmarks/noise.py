"""Does an unchanged model pass the gate, collected otherwise?

    python -m benchmarks.noise             some minutes; prints a Markdown table

Each embedded checkpoint is compared with itself, collected in batches of other sizes, computed in
fewer digits and by another linear-algebra library, by the checks of
`artifact_checks/test_regression.py`.
"""

import multiprocessing
import os
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.page import command_line, table
from benchmarks.workloads import machine_with_mlx
from harness import Experiment, Results
from harness.analysis import analyze
from harness.analysis.comparison import SavedRun, compare_versions
from harness.analysis.gate import gate
from harness.collect import collect
from harness.data import embedded
from harness.progress import SILENT
from harness.results.baseline import saved_run
from harness.settings import Criteria

CHANGES: dict[str, dict[str, object]] = {
    "batches of 1": {"batch_size": 1},
    "batches of 7": {"batch_size": 7},
    "batches of 33": {"batch_size": 33},
    "bfloat16": {"dtype": "bfloat16"},
}


def measured(model: str, store: str, changes: dict[str, object]) -> SavedRun:
    """A run of the model, collected otherwise; its answers may be other ones."""
    experiment = Experiment(model, base_model="none", store=store)
    settings = replace(experiment.collection, **changes)  # type: ignore[arg-type]
    run = collect(
        experiment.checkpoint,
        experiment.prompt_pairs,
        settings,
        Path(experiment.store),
        bars=SILENT,
    )
    analysis = analyze(
        run,
        experiment.prompt_pairs,
        layers=settings.layers,
        sites=settings.sites,
        provenance=experiment.provenance,
    )
    return saved_run(Path("run"), Results(analysis, Criteria()))


def measured_by_mlx_alone(model: str, store: str) -> SavedRun:
    """A run of the model in a process where no BLAS is put under MLX."""
    spawn = multiprocessing.get_context("spawn")
    before = os.environ.get("GEMMA_MLX_BLAS")
    os.environ["GEMMA_MLX_BLAS"] = "none"
    try:
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            return process.submit(measured, model, store, {}).result()
    finally:
        del os.environ["GEMMA_MLX_BLAS"]
        if before is not None:
            os.environ["GEMMA_MLX_BLAS"] = before


def main(arguments: list[str] | None = None) -> None:
    parser = command_line("noise", __doc__)
    parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as store:
        for model in embedded.MODELS:
            before = measured(model, store, {})
            others = {name: measured(model, store, changes) for name, changes in CHANGES.items()}
            others["MLX's own BLAS"] = measured_by_mlx_alone(model, store)
            for name, after in others.items():
                compared = compare_versions(before, after, Criteria())
                layers = [layer.comparison for layer in compared.layers.values()]
                rows.append(
                    (
                        model,
                        name,
                        f"{max(abs(layer.difference) for layer in layers):.1e}",
                        f"{layers[0].unchanged_passes:.2f}",
                        gate(compared, Criteria()),
                    )
                )
                print(rows[-1], file=sys.stderr, flush=True)
    head = ("model", "collected in", "largest change of d", "said to pass", "the gate")
    print(f"{machine_with_mlx()}\n\n{table(head, rows)}")


if __name__ == "__main__":
    main()
