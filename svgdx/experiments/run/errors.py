"""What stops an experiment."""


class UsageError(Exception):
    """The request cannot be carried out as given: the command line prints the message and exits with 2."""


class StoppedError(Exception):
    """A run could not go on: its environment failed, or its checkpoint could not be written. Exit code 1."""


class DivergedError(StoppedError):
    """A quantity became NaN or infinite; the message names the step and the quantity. Exit code 1."""
