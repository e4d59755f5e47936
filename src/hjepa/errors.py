"""Errors that a user can fix, reported without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can fix: a bad key, a missing file, an impossible combination.

    The message is one line: where, what is wrong, and what to do. The command line prints it without a traceback and
    exits with code 2; library callers may catch it as a ``ValueError``.

    Attributes:
        exit_code: exit code of the program.
        said: whether another process of the same run already reports the error.
    """

    exit_code = 2
    said = False


class DataError(UserError):
    """Images or labels that cannot be read, found or matched."""


class EmptySplitError(DataError):
    """A split without images, which happens with very small data sets."""


class CheckpointError(UserError):
    """A checkpoint that is damaged, not written by hjepa, or does not match the configuration."""


class DivergenceError(UserError):
    """Losses, gradients or features became NaN or infinite: the configuration is valid, but training diverged."""


class HealthError(UserError):
    """The health of a run was red, and its configuration says to stop; checkpoints are intact."""

    exit_code = 3


class LostProcessError(UserError):
    """Another process of the run has ended or does not respond; saved checkpoints are intact."""

    exit_code = 1
