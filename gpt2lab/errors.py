"""Errors that a user can cause, and `InternalError`, which is ours. Each carries the exit code of the process.

A user's error is one line that says which key or file, what was found, what was expected, and what to do.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

TRACEBACK_VARIABLE = "GPT2LAB_TRACEBACK"  # set to 1, errors come with their traceback
CLOSED_PIPE = 141  # exit code, as the shell reports a death by SIGPIPE


class Gpt2labError(ValueError):
    """Base of all errors shown to a user as one line, without a traceback."""

    exit_code = 1


class ConfigError(Gpt2labError):
    """A command, an override or a combination of settings that cannot work."""

    exit_code = 2


class EngineError(Gpt2labError):
    """The chosen engine, device or precision is not available on this machine."""

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


class InternalError(Exception):
    """A fault of gpt2lab: a failed launch, a kernel fault, a broken assumption. `traceback_file`: where it is kept."""

    exit_code = 1

    def __init__(self, message: str, *, traceback_file: Path | None = None) -> None:
        super().__init__(message)
        self.traceback_file = traceback_file


def describe_error(error: Exception) -> tuple[str, int]:
    """Return the line that tells a person about an error, and the exit code of the process.

    What is neither a user's error nor one of the file system is a fault of gpt2lab; the line asks for a report.
    """
    error = no_memory(error) if isinstance(error, MemoryError) else error
    if isinstance(error, Gpt2labError):
        return " ".join(str(error).split()), error.exit_code
    if isinstance(error, OSError) and (error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)):
        where = "output" if error.filename is None else error.filename
        return f"{where}: {(error.strerror or str(error)).lower()}", ArchiveError.exit_code
    attached = f"what the same command prints with {TRACEBACK_VARIABLE}=1"
    if isinstance(error, InternalError) and error.traceback_file is not None:
        beside = [error.traceback_file.with_name(name) for name in ("config.yaml", "provenance.json")]
        attached = ", ".join(str(file) for file in (error.traceback_file, *beside) if file.exists())
    what = " ".join(internal_message(error).split())
    return f"internal error: {what}; this is a fault of gpt2lab, please report it and attach {attached}", 1


@contextlib.contextmanager
def error_line(codes: list[int], *, show: Callable[[str], str] = str) -> Iterator[None]:
    """Turn an error into one line on stderr, as `show` writes it, and its exit code; a closed pipe has no line."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # as with >&-
                sys.stdout.flush()  # here, where a closed pipe is silent
    except (Exception, SystemExit) as error:
        if is_closed_pipe(error):
            codes.append(discard_output())
            return
        if isinstance(error, SystemExit) or os.environ.get(TRACEBACK_VARIABLE):
            raise
        line, code = describe_error(error)
        try:
            print(f"gpt2lab: {show(line)}", file=sys.stderr)
        except BrokenPipeError:
            code = discard_output()
        codes.append(code)
    except KeyboardInterrupt:
        if not codes or codes[-1] != 130:
            print("gpt2lab: interrupted", file=sys.stderr)
            codes.append(130)


def no_memory(error: MemoryError) -> EngineError:
    """Return the user's error for memory that did not suffice."""
    what = f"out of memory: {error}" if str(error) else "out of memory"
    return EngineError(f"{what}; free some, or choose a smaller model or a smaller train.micro_batch_size")


def is_closed_pipe(error: BaseException) -> bool:
    """Whether an exception says that nobody reads the output any more; rich raises SystemExit for it."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(cause, BrokenPipeError)


def discard_output() -> int:
    """Send all further output nowhere, also what Python writes at exit; return the exit code CLOSED_PIPE."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a stream that is no file
            os.dup2(nowhere, stream.fileno())
    return CLOSED_PIPE


def internal_message(error: BaseException) -> str:
    """Return the message of an InternalError; of any other exception, with its type."""
    return str(error) if isinstance(error, InternalError) else f"{type(error).__name__}: {error}"
