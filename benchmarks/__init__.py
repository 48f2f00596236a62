"""Measurements, each started by its name: `python -m benchmarks.collect --help`."""
