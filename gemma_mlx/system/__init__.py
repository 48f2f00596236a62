"""Files, terminal, interrupts, MLX and its BLAS: nothing of Gemma."""
