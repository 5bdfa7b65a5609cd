"""The errors that a command reports and ends with."""


class UsageError(RuntimeError):
    """A request that can't be fulfilled with what was given; the message says why, and what to do.

    The commands print it after their name and end with status 1; from Python it is an exception like any other.

    Example:
        >>> from scvae_fast.errors import UsageError
        >>> raise UsageError("pictures/ contains no pictures")
        Traceback (most recent call last):
            ...
        scvae_fast.errors.UsageError: pictures/ contains no pictures
    """


class ArgumentError(UsageError):
    """A value that is invalid in itself, whatever files there are; commands exit with status 2, before any work.

    Example:
        >>> from scvae_fast.errors import ArgumentError, UsageError
        >>> issubclass(ArgumentError, UsageError)
        True
    """
