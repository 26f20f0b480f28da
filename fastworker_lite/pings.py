"""A dead man's ping, as healthchecks.io has it: `/start` when something begins, `/` and its exit code when it has ended.

Runs in: the runner's process that leads, and `fwl run`.
"""

from __future__ import annotations


def post(url: str, what: str, seconds: float, body: bytes = b"") -> str | None:
    """Tell *url* about *what*: `start`, or an exit code. Returns what went wrong."""
    import urllib.request  # and with it http and ssl, which take longer to load than all of ours

    address = f"{url.rstrip('/')}/{what}"
    try:
        request = urllib.request.Request(address, data=body, method="POST")
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            answer.read(1)
    except (OSError, ValueError) as error:
        inner = getattr(error, "reason", None)  # urlopen wraps what a socket says
        reason = inner if isinstance(inner, OSError) else error
        return f"{address}: {getattr(reason, 'strerror', None) or reason}"
    return None
