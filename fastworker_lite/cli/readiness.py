"""What the service manager is told that started us, if one did: that we are ready, that we live, that we stop.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import socket


class ServiceManager:
    """Who waits at $NOTIFY_SOCKET, as systemd does for `Type=notify`; nobody, where that is not set."""

    def __init__(self) -> None:
        """Takes the variables away: they are not for what we start."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        patience, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        is_watched = self._address and patience.isdecimal() and pid in ("", str(os.getpid()))
        self.interval = int(patience) / 2e6 if is_watched else None
        #: Seconds after which it is to be told again that we live; None where nobody watches.

    def tell(self, state: str) -> None:
        """Send `READY=1` or the like."""
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
                one.sendto(state.encode(), self._address)
