"""What `gemma_mlx` raises when a checkpoint or a request can't be served."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, incomplete, damaged or of an unsupported kind."""


class RequestError(ValueError):
    """A generation request that this model can't serve (site, layer, position, length)."""
