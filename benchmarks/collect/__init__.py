"""How fast activations are collected, beside what people use today."""
