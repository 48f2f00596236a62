"""Prompt pairs, the store, files of activations: what is read and kept."""
