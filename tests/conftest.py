"""What all tests start from."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell starts its background jobs deaf to these, and so would be every program that a test starts and interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
