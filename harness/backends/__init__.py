"""The models that are run: Gemma 2 and 3, computed by `gemma_mlx`, and any other that mlx-lm has.

What the harness asks of a model stands in `harness.backends.model`; `harness.backends.choice` says
which backend a checkpoint gets.
"""
