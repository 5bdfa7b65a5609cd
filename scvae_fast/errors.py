"""The errors that a command reports and ends with."""


class UsageError(RuntimeError):
    """What someone asked for can't be done with what was given; the message says why, and what to do.

    The commands print it after their name and end with status 1; from Python it is an exception like any other.
    """


class ArgumentError(UsageError):
    """A value that someone gave is wrong whatever lies on the disk; commands end with status 2, before any work."""
