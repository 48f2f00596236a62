"""What is raised where input can't be used."""


class UserError(ValueError):
    """Input that can't be used: the message is for the person who gave it, and names what is wrong
    and what would be right. Command line and plugin show it as one line."""


class BackendError(UserError):
    """MLX, or the BLAS asked for, can't be loaded on this machine."""


class CheckpointError(UserError):
    """A checkpoint that is missing, incomplete, damaged or of an unsupported kind."""


class RanksError(UserError):
    """The processes of a launch can't work together: not connected, lost, or started with
    different input."""


class RequestError(UserError):
    """A generation request that this model can't serve (site, layer, position, length)."""
