"""What `fwl run --ping` tells whoever minds that it runs.

Runs in: the command line.
"""

from __future__ import annotations

import time

from .. import pings
from ..job import Job
from ..store.connection import Connection
from . import render
from .problems import usage
from .session import Session

#: How often it is tried, and seconds between two tries and for each.
TRIES, PAUSE, PATIENCE = 3, 1.0, 10.0
#: Bytes of the output that are sent along.
MOST_OUTPUT = 10_000


def check(url: str) -> None:
    """Refuse what is no address."""
    if not url.startswith(("http://", "https://")):
        raise usage(f'--ping: "{url}" is not a URL; it begins with https://')


def tell_start(session: Session, url: str) -> None:
    _tell(session, url, "start", b"")


def tell_end(session: Session, connection: Connection, url: str, job: Job, code: int) -> None:
    """Its exit code, with the end of what it printed."""
    output = b"".join(_tail(connection.paths.log(job.id, job.attempt, stream)) for stream in ("out", "err"))
    _tell(session, url, str(code), output[-MOST_OUTPUT:])


def _tail(path: str) -> bytes:
    from .records import log_size

    try:
        with open(path, "rb") as file:
            file.seek(max(0, log_size(path) - MOST_OUTPUT))
            return file.read(MOST_OUTPUT)
    except OSError:
        return b""


def _tell(session: Session, url: str, what: str, body: bytes) -> None:
    """That nobody hears it changes nothing for the job."""
    for number in range(1, TRIES + 1):
        problem = pings.post(url, what, PATIENCE, body)
        if problem is None:
            return
        if number < TRIES:
            time.sleep(PAUSE)
    session.say(f"the ping was not heard: {render.clean(problem)}")
