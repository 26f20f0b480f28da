"""Options that several commands share.

Runs in: the command line.
"""

from typing import Annotated

import typer

Queue = Annotated[str | None, typer.Option("--queue", "-Q", metavar="NAME", help="The queue.")]
Priority = Annotated[
    str | None, typer.Option("--priority", metavar="P", help="low, normal, high, critical or an integer; higher first.")
]
Name = Annotated[str | None, typer.Option("--name", metavar="TEXT", help="What to call the job.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="DUR", help="How long one attempt may take.")]
Retries = Annotated[int | None, typer.Option("--retries", metavar="N", help="How often a failed job is tried again.")]
RetryDelay = Annotated[str | None, typer.Option("--retry-delay", metavar="DUR", help="How long to wait before that.")]
RetryBackoff = Annotated[
    float | None, typer.Option("--retry-backoff", metavar="F", help="By what that grows each time; it is random then.")
]
RetryMaxDelay = Annotated[
    str | None, typer.Option("--retry-max-delay", metavar="DUR", help="The most it grows to.  [default: 1h]")
]
RetryOnTimeout = Annotated[bool, typer.Option("--retry-on-timeout", help="Try again also what took too long.")]
Grace = Annotated[
    str | None, typer.Option("--grace", metavar="DUR", help="From being told to end (TERM) to being ended (KILL).")
]


def _check_notify(address: str | None) -> str | None:
    if address is not None:
        from .values import check_address

        check_address("--notify", address)
    return address


Notify = Annotated[
    str | None,
    typer.Option(
        "--notify", metavar="ADDRESS", callback=_check_notify, help="Tell whoever listens at this socket how it ended."
    ),
]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="DUR", help="Do not start it after this time: it ends as expired.")
]
OnLost = Annotated[
    str | None, typer.Option("--on-lost", metavar="retry|fail", help="What becomes of the job when its worker dies.")
]
After = Annotated[
    list[str] | None,
    typer.Option("--after", metavar="IDS", help="Begin when these jobs have succeeded: 46,47, a name or @last."),
]
AfterAny = Annotated[
    list[str] | None, typer.Option("--after-any", metavar="IDS", help="Begin when these have ended, however they did.")
]
AfterFailure = Annotated[
    list[str] | None, typer.Option("--after-fail", metavar="IDS", help="Begin when one of these has failed.")
]
Unique = Annotated[
    str | None, typer.Option("--unique", metavar="KEY", help="Add nothing while a job with this key waits or runs.")
]
OnConflict = Annotated[
    str | None, typer.Option("--on-conflict", metavar="keep|fail|replace", help="What to do then.  [default: keep]")
]
IdempotencyKey = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="KEY", help="Add one job in 24 hours, also if it has ended.")
]
Debounce = Annotated[
    str | None, typer.Option("--debounce", metavar="DUR", help="With --unique: begin after so long without another.")
]
Lock = Annotated[
    str | None, typer.Option("--lock", metavar="NAME", help="Of the jobs with this lock, run one at a time.")
]
SkipIfRunning = Annotated[
    bool, typer.Option("--skip-if-running", help="With --lock: add nothing while another job has or awaits it.")
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", help="Run so many of this program's jobs at a time.")
]
Rate = Annotated[str | None, typer.Option("--rate", metavar="N/s|m|h|d", help="Begin so many of them in a span.")]
Key = Annotated[str | None, typer.Option("--key", metavar="TEXT", help="Count only those with this key for that.")]
Folder = Annotated[str | None, typer.Option("--cwd", "-C", metavar="DIR", help="Where to run it, instead of here.")]
CleanEnvironment = Annotated[bool, typer.Option("--clean-env", help="Keep only PATH, HOME, USER, LANG and the like.")]
Environment = Annotated[
    list[str] | None, typer.Option("--env", metavar="K=V", help="Set a variable, or keep one (K); may be repeated.")
]
EnvironmentFile = Annotated[
    str | None, typer.Option("--env-file", metavar="FILE", help="Set those in this file: NAME=value lines.")
]
Script = Annotated[
    str | None, typer.Option("--script", metavar="FILE|-", help="Run this program as it is now; ARG... follow.")
]
Stdin = Annotated[str | None, typer.Option("--stdin", metavar="FILE|-", help="What it reads; - takes ours along.")]
Job = Annotated[str, typer.Argument(metavar="ID", help="45, @last, or a name.")]
Delay = Annotated[str | None, typer.Option("--in", metavar="DUR", help="Start after this time.")]
At = Annotated[str | None, typer.Option("--at", metavar="TIME", help="Start at this time: 2026-11-24 03:00 or 03:00.")]
Hold = Annotated[bool, typer.Option("--hold", help="Do not begin it before fwl release.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="K=V", help="By which to find it; may be repeated.")]
Shell = Annotated[
    str | None, typer.Option("-c", "--shell", metavar="STRING", help="A line for /bin/sh instead of a command.")
]
NewQueue = Annotated[bool, typer.Option("--new-queue", help="Make the queue if there is none of that name.")]
Words = Annotated[list[str] | None, typer.Argument(metavar="-- CMD [ARG...]", help="The command and its arguments.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID...", help="45, 40-45, @last, @failed, @active, a name, or - for ids on stdin."),
]
TaskId = Annotated[str | None, typer.Option("--task-id", hidden=True)]
ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.")]
