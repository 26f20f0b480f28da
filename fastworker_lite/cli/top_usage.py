"""How much CPU and memory processes take.

Runs in: the command line.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable
from typing import NamedTuple

from ..leases import ProcessIdentity


class Usage(NamedTuple):
    """What a process takes."""

    cpu: float | None
    #: Percent of a core.
    memory: int | None
    #: Bytes.


class Meter:
    """Asks how much CPU and memory processes take: of CPU since the last time, the first time since they began."""

    def __init__(self) -> None:
        self._mine = ProcessIdentity.mine()
        self._has_proc = os.path.isdir("/proc/self")
        self._ticks, self._page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        self._seen: dict[int, tuple[float, float]] = {}
        #: By process: when it was looked at, on the clock since boot, and the seconds of CPU it had had.

    def read(self, identities: Iterable[ProcessIdentity]) -> dict[int, Usage]:
        """What those of these processes take that are in sight: not in another container, nor on another machine."""
        near = [one for one in identities if (one.boot, one.namespace) == (self._mine.boot, self._mine.namespace)]
        if not self._has_proc:
            return _by_ps([one.pid for one in near])
        found = {one.pid: usage for one in near if (usage := self._by_proc(one)) is not None}
        self._seen = {pid: seen for pid, seen in self._seen.items() if pid in found}
        return found

    def _by_proc(self, process: ProcessIdentity) -> Usage | None:
        try:
            with open(f"/proc/{process.pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        if fields[19].decode() != process.started:
            return None
        now, spent = time.clock_gettime(time.CLOCK_BOOTTIME), (int(fields[11]) + int(fields[12])) / self._ticks
        then, before = self._seen.get(process.pid, (int(process.started) / self._ticks, 0.0))
        self._seen[process.pid] = now, spent
        percent = 100 * (spent - before) / max(now - then, 1 / self._ticks)
        return Usage(max(0.0, percent), int(fields[21]) * self._page)


def _by_ps(pids: list[int]) -> dict[int, Usage]:
    if not pids:
        return {}
    command = ["ps", "-o", "pid=,%cpu=,rss=", "-p", ",".join(map(str, pids))]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
        rows = [line.split() for line in told.stdout.splitlines()]
        return {int(pid): Usage(float(cpu), int(rss) * 1024) for pid, cpu, rss in rows}
    except (OSError, ValueError):
        return {}
