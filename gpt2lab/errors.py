"""Errors that a user can cause. Each carries the process exit code; the message is one line that says
which key or file, what was found, what was expected, and what to do.
"""

TRACEBACK_VARIABLE = "GPT2LAB_TRACEBACK"  # set to 1, errors come with their traceback


class Gpt2labError(ValueError):
    """Base of all errors shown to a user as one line, without a traceback."""

    exit_code = 1


class ConfigError(Gpt2labError):
    """A command, an override or a combination of settings that cannot work."""

    exit_code = 2


class EngineError(Gpt2labError):
    """The chosen engine, device or precision is not to be had on this machine."""

    exit_code = 2


class DataError(Gpt2labError):
    """A corpus, token shard or checkpoint file that is missing, damaged or too small."""

    exit_code = 3


class DivergedError(Gpt2labError):
    """The loss or the gradient norm is no longer finite; the parameters were not updated."""

    exit_code = 4


class ArchiveError(Gpt2labError):
    """A run directory or the archive could not be written, read or verified."""

    exit_code = 5
