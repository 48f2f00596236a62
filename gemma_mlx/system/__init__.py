"""Files, terminal, interrupts, BLAS: nothing of Gemma."""
