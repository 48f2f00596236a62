"""The results value, its file and schema, baselines, provenance."""

from harness.results.value import Results

__all__ = ["Results"]
