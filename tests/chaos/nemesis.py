"""What goes wrong in a run, and when: everything comes from one seed.

Runs in: the testing process.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import threading
import time
from collections import Counter

from tests.chaos import clock
from tests.chaos.machine import is_alive

#: Seconds for which a process is stopped, the clock is wrong, or the disk is full.
WHILE = 0.9

FAULTS = {
    "kill a worker": 38,
    "kill the runner": 14,
    "kill a submitter": 10,
    "kill the listener": 6,
    "kill all": 8,
    "stop a process": 16,
    "put the clock": 4,
    "fill the disk": 4,
}


class Nemesis:
    """Kills, stops, and worse. For one thread; what has to be undone is undone by timers."""

    def __init__(self, machine, seed, pause=(0.2, 0.8), faults=FAULTS):
        self.machine = machine
        self.counts = Counter()
        self.kills = 0
        self._rng = random.Random(seed)
        self._pause = pause
        self._faults = faults
        self._timers = []

    def work(self, seconds):
        """Do harm for so long, with everybody started anew who is gone."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self._rng.uniform(*self._pause))
            fault = self._rng.choices(list(self._faults), list(self._faults.values()))[0]
            _WORK[fault](self)
            self.counts[fault] += 1
            self.machine.start_again()

    def rest(self):
        """Undo what is to be undone."""
        for timer in self._timers:
            timer.join()
        self.machine.start_again()

    def _later(self, function, *args):
        """By a timer: who is stopped may hold the gate, and this thread must not wait for it."""
        timer = threading.Timer(WHILE, function, args)
        timer.start()
        self._timers = [other for other in self._timers if other.is_alive()] + [timer]

    def _names(self, role):
        return sorted(name for name, (_, its, _) in self.machine.actors.items() if its == role)

    def _kill_a_worker(self):
        runner = self._rng.choice(self._names("runner"))
        if pids := sorted(self.machine.worker_pids(runner)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rng.choice(pids), signal.SIGKILL)
                self.kills += 1

    def _kill_one(self, role):
        if names := self._names(role):
            self.machine.kill(self._rng.choice(names))
            self.kills += 1

    def _kill_all(self):
        for pid in self.machine.everybody():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills += 1

    def _stop_a_process(self):
        runner = self._rng.choice(self._names("runner"))
        pid = self._rng.choice([self.machine.pid(runner), *sorted(self.machine.worker_pids(runner))])
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
            self._later(_let_go_on, descriptor)

    def _put_the_clock(self):
        clock.put(self.machine.folder, self._rng.choice([-3600.0, 3600.0]))
        self._later(clock.put, self.machine.folder, 0.0)

    def _fill_the_disk(self):
        """No file of the runner's may grow any more."""
        pid = self.machine.pid(self._rng.choice(self._names("runner")))
        _limit(pid, 4096)
        self._later(self._make_room, pid)

    def _make_room(self, pid):
        for one in [pid, *self.machine.everybody()]:  # a worker has it from its runner
            _limit(one, resource.RLIM_INFINITY)


def _limit(pid, size):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if is_alive(pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _let_go_on(descriptor):
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, signal.SIGCONT)
    os.close(descriptor)


_WORK = {
    "kill a worker": Nemesis._kill_a_worker,
    "kill the runner": lambda nemesis: nemesis._kill_one("runner"),
    "kill a submitter": lambda nemesis: nemesis._kill_one("submitter"),
    "kill the listener": lambda nemesis: nemesis._kill_one("listener"),
    "kill all": Nemesis._kill_all,
    "stop a process": Nemesis._stop_a_process,
    "put the clock": Nemesis._put_the_clock,
    "fill the disk": Nemesis._fill_the_disk,
}
