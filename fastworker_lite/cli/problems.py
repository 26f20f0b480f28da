"""What ends a command early: a message, a code for programs, an exit status.

Runs in: the command line.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from .. import errors

OK, FAILED, USAGE, NOT_FOUND, REFUSED = 0, 1, 2, 3, 4
DATA, UNAVAILABLE, BUG, IO, BUSY, CONFIG = 65, 69, 70, 74, 75, 78
TIMED_OUT, OWN_TROUBLE, INTERRUPTED = 124, 125, 130

UNEXPECTED = "unexpected"

_NAMES = {
    FAILED: "failed",
    USAGE: "usage",
    NOT_FOUND: "not_found",
    REFUSED: "refused",
    DATA: "not_our_database",
    UNAVAILABLE: "unavailable",
    BUG: UNEXPECTED,
    IO: "storage",
    BUSY: "busy",
    CONFIG: "config",
    TIMED_OUT: "timed_out",
    INTERRUPTED: "interrupted",
}


class CommandError(Exception):
    """A command cannot do what it was asked to; nothing was changed."""

    def __init__(self, message: str, exit_code: int, hint: str | None = None, code: str | None = None) -> None:
        """*code* names the problem for programs, where the exit code alone does not."""
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint
        self.code = code or _NAMES.get(exit_code, "failed")


class Problem(NamedTuple):
    """What is said of an exception, and the exit status it becomes."""

    code: str
    message: str
    hint: str | None
    exit_code: int


def usage(message: str, hint: str | None = None) -> CommandError:
    """The command was not written as it must be."""
    return CommandError(message, USAGE, hint)


def no_such_job(job_id: object, newest: int) -> CommandError:
    return CommandError(
        f"no job {job_id} (newest is {newest})" if newest else f"no job {job_id}; none was ever submitted here",
        NOT_FOUND,
    )


_BY_CLASS: tuple[tuple[type[BaseException], int], ...] = (
    (errors.NotOurDatabase, DATA),
    (errors.DatabaseBusy, BUSY),
    (errors.SchemaTooNew, CONFIG),
    (errors.StorageError, IO),
    (errors.QueueFull, REFUSED),
    (errors.JobExists, REFUSED),
    (errors.PoolFailed, BUG),
    (errors.JobNotFound, NOT_FOUND),
    (errors.ConfigError, USAGE),
    (errors.SerializationError, USAGE),
    (errors.FastWorkerError, FAILED),
)


def describe(error: BaseException, *, is_pass_through: bool) -> Problem:
    """Any exception as a problem. In the pass-through family every trouble of ours is 125: other codes are the job's."""
    hint = code = None
    if isinstance(error, CommandError):
        message, exit_code, hint, code = error.message, error.exit_code, error.hint, error.code
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message, exit_code = f"cannot write the output: {error.strerror}", FAILED
    elif isinstance(error, UnicodeEncodeError):
        message, exit_code = f'"{error.object}" is not Unicode; only the words of a command may be any bytes', USAGE
    else:
        exit_code = next((code for kind, code in _BY_CLASS if isinstance(error, kind)), BUG)
        is_ours = isinstance(error, errors.FastWorkerError)
        message = _first_line(error) if is_ours else f"unexpected: {type(error).__name__}: {error}"
    name = code or _NAMES.get(exit_code, "failed")
    if is_pass_through and exit_code not in (TIMED_OUT, INTERRUPTED):
        exit_code = OWN_TROUBLE
    return Problem(name, message, hint, exit_code)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
