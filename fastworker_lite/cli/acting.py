"""What commands that act on jobs answer: for each job that it is done, or why it is not.

Runs in: the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .problems import FAILED, REFUSED, CommandError
from .session import Session


class Result(NamedTuple):
    """What became of one job."""

    state: str | None = None
    #: The job's, after what was done to it.
    problem: CommandError | None = None
    #: Why nothing was done.


def refused(message: str, code: str) -> Result:
    """The job is not in a state in which that can be done. *code* says so to programs."""
    return Result(problem=CommandError(message, REFUSED, code=code))


def put(session: Session, action: str, results: Mapping[int, Result]) -> int:
    """Answer, and return the exit code: 0, the problem's where all have the same, 1 where they are mixed."""
    problems = [result.problem for result in results.values() if result.problem is not None]
    if len(results) == 1 and problems:
        raise problems[0]
    if session.is_json:
        rows = [_row(job_id, action, result) for job_id, result in results.items()]
        session.put_json("fwl.actions/1", results=rows)
    else:
        for problem in problems:
            session.say(f"error: {problem.message}")
    codes = {problem.exit_code for problem in problems}
    if len(problems) == len(results) and len(codes) == 1:
        return codes.pop()
    return FAILED if problems else 0


def _row(job_id: int, action: str, result: Result) -> dict[str, Any]:
    if result.problem is None:
        return {"id": job_id, "ok": True, "action": action, "state": result.state}
    error = {"code": result.problem.code, "message": result.problem.message}
    return {"id": job_id, "ok": False, "action": action, "error": error}
