"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can put right: a bad key, a missing file, an impossible combination.

    The message is one line that says what is wrong, where, and what would do. The command line prints it
    without a traceback and exits with code 2; library callers may catch it as a ``ValueError``.

    Attributes:
        exit_code: of the program.
        said: whether another process of the same run says it already.
    """

    exit_code = 2
    said = False


class DataError(UserError):
    """Images or labels that cannot be read, found or matched."""


class EmptySplitError(DataError):
    """A split without a single image, as very small sets have."""


class CheckpointError(UserError):
    """A checkpoint that is damaged, foreign, or does not belong to this configuration."""


class DivergenceError(UserError):
    """Losses, gradients or features that are no longer finite: a finding about a configuration, not a mistake in it."""


class LostProcessError(UserError):
    """Another process of the run has ended or does not answer; what was saved is whole."""

    exit_code = 1
