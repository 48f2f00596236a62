"""The models that collecting runs prompts through."""
