"""The one error that the command line shows as a single message."""


class ExperimentError(Exception):
    """Something the user must put right; its text is the whole message: where, what, and the remedy."""
