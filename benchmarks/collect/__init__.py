"""How fast activations are collected, beside what people use today."""

# Before MLX, under which it puts a BLAS.
import gemma_mlx  # noqa: F401
