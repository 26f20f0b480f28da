"""One call of `fwl`: parse, run the command, and turn whatever happened into an exit code.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import typer

from . import problems, render
from .app import app
from .parsing import new_session
from .problems import Problem
from .session import Session

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # typer carries its own click and does not export this


def run(argv: list[str]) -> int:
    """Run one command and return its exit code. Nothing but the code comes out, whatever happens."""
    render.prepare_streams()
    return _flush(_run(argv))


def _run(argv: list[str]) -> int:
    session = Session()
    try:
        session = new_session()
        code = app().main(argv, prog_name="fwl", standalone_mode=False, obj=session)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return problems.INTERRUPTED
    except BrokenPipeError:
        return _on_broken_pipe()
    except SystemExit as error:  # what typer makes of a broken pipe
        if isinstance(error.__context__, BrokenPipeError):
            return _on_broken_pipe()
        raise
    except _USAGE_ERROR as error:
        from .meaning import describe

        return _report(session, problems.describe(describe(error), is_pass_through=session.is_pass_through))
    except Exception as error:
        problem = problems.describe(error, is_pass_through=session.is_pass_through)
        return _report(session, _with_details(session, error, problem))


def _with_details(session: Session, error: Exception, problem: Problem) -> Problem:
    """The problem, with where the details are of one that is a fault of ours."""
    from . import crashes

    if session.is_debugged:
        render.say("\n".join(render.clean(line) for line in crashes.traced(error).splitlines()))
    elif problem.code == problems.UNEXPECTED and (path := crashes.keep(error)) is not None:
        return problem._replace(hint=f"details: {path}")
    return problem


def _report(session: Session, problem: Problem) -> int:
    with contextlib.suppress(BrokenPipeError):
        if not session.is_json or not _report_in_json(session, problem):
            hints = (problem.hint or "").splitlines()
            message = render.clean(problem.message)
            render.say("\n  ".join([f"error: {message}", *(render.clean(hint) for hint in hints)]))
    return problem.exit_code


def _report_in_json(session: Session, problem: Problem) -> bool:
    """False where stdout takes nothing, which may be the problem."""
    error = {"code": problem.code, "message": problem.message, "hint": problem.hint, "exit_code": problem.exit_code}
    try:
        session.put_json("fwl.error/1", error=error)
    except BrokenPipeError:
        raise
    except OSError:
        _leave_stdout()
        return False
    return True


def _flush(code: int) -> int:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _on_broken_pipe()
    except OSError as error:
        _leave_stdout()
        render.say(f"error: cannot write the output: {error.strerror}")
        return problems.FAILED
    return code


def _on_broken_pipe() -> int:
    """The reader has seen enough, as in `fwl status | head -1`."""
    _leave_stdout()
    return 0


def _leave_stdout() -> None:
    """Let the interpreter's own flush at exit go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
