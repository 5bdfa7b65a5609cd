"""Errors that end a command with a message."""


class UsageError(RuntimeError):
    """A request that can't be fulfilled; the message says why, and what to do.

    Commands print it after their name and exit with status 1; in Python it is an ordinary exception.

    Example:
        >>> from scvae_fast.errors import UsageError
        >>> raise UsageError("pictures/ contains no pictures")
        Traceback (most recent call last):
            ...
        scvae_fast.errors.UsageError: pictures/ contains no pictures
    """


class ArgumentError(UsageError):
    """A value that is invalid regardless of any files; commands exit with status 2, before any work.

    Example:
        >>> from scvae_fast.errors import ArgumentError, UsageError
        >>> issubclass(ArgumentError, UsageError)
        True
    """
