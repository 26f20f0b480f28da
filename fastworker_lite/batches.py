"""Several short jobs in one claim: how many, and what happens when one of them turns out to be long.

Runs in: a worker process.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable

from .exchange import Report
from .job import Claimed, Kind, Outcome

#: Seconds of expected work that a claim takes at most, beyond its first job.
BATCH_SECONDS = 0.005
MOST_IN_BATCH = 50
#: Seconds after which the rest of a batch is given back to other workers.
BATCH_PATIENCE = 0.02

_LONG = 2 * BATCH_SECONDS


class Estimates:
    """How long the jobs of each task take: a moving average, from this worker's own runs."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self.limit = 1
        #: How many rows the next claim should look at.

    def learn(self, task: str, seconds: float) -> None:
        known = self._seconds.get(task)
        self._seconds[task] = seconds if known is None else known + 0.3 * (seconds - known)

    def pick(self, found: list[Claimed]) -> list[Claimed]:
        """As many from the front as are expected to take `BATCH_SECONDS`, and the first one in any case."""
        total, count = 0.0, 0
        for job in found:
            total += self._expected(job)
            if count and total > BATCH_SECONDS:
                break
            count += 1
        is_short = total <= BATCH_SECONDS and count == len(found)
        self.limit = min(MOST_IN_BATCH, 2 * count) if is_short else count
        return found[:count]

    def _expected(self, job: Claimed) -> float:
        if job.timeout is not None or job.on_lost == "fail" or job.kind == Kind.COMMAND or job.limits is not None:
            return _LONG  # alone: it may be ended by force, or must not be claimed before its turn
        return self._seconds.get(job.task, _LONG)


class Batch:
    """The jobs of one claim: taken one by one by the worker, taken back by the watcher when one takes long."""

    def __init__(self, claimed: list[Claimed]) -> None:
        self.size = len(claimed)
        self._waiting = deque(claimed)
        self._report = Report()
        self._lock = threading.Lock()
        self._began = 0.0

    def next(self) -> Claimed | None:
        with self._lock:
            self._began = time.monotonic()
            return self._waiting.popleft() if self._waiting else None

    def end(self, outcome: Outcome) -> None:
        with self._lock:
            self._report.outcomes.append(outcome)

    def misplace(self, job: Claimed) -> None:
        with self._lock:
            self._report.misplaced.append(job)

    def limit(self, job: Claimed) -> None:
        with self._lock:
            self._report.limited.append(job)

    def not_know(self, job: Claimed) -> None:
        with self._lock:
            self._report.unknown.append(job)

    def interrupt(self, job: Claimed) -> None:
        with self._lock:
            self._report.interrupted.append(job)

    def give_back_rest(self) -> None:
        """Begin no more of them."""
        with self._lock:
            self._report.returned.extend(self._waiting)
            self._waiting.clear()

    def report(self) -> Report:
        """What is to be told, once `next` has given None."""
        with self._lock:
            return self._report

    def take_back_if_slow(self) -> Report | None:
        """What has ended and what has not begun, once the running job has taken `BATCH_PATIENCE`."""
        with self._lock:
            if not self._waiting or time.monotonic() - self._began < BATCH_PATIENCE:
                return None
            report, self._report = self._report, Report()
            report.returned.extend(self._waiting)
            self._waiting.clear()
            return report

    def put_back(self, report: Report) -> None:
        """Undo `take_back_if_slow`: it could not be stored."""
        with self._lock:
            self._report = report
            self._waiting.extend(report.returned)
            report.returned.clear()


class BatchWatcher:
    """A second thread that settles and gives back a batch whose running job takes long."""

    def __init__(self, open_tell: Callable[[], Callable[[Report], bool]]) -> None:
        """*open_tell* is called on the thread, and returns what stores a report there: True when it is stored."""
        self._open_tell = open_tell
        self._batch: Batch | None = None
        self._has_batch = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, batch: Batch) -> None:
        """Look after *batch* until the next one, or `rest`."""
        self._batch = batch
        if not self._has_batch.is_set():
            self._has_batch.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fastworker-batches", daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """There is no batch: sleep until there is."""
        self._batch = None

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        tell = self._open_tell()
        while True:
            self._has_batch.wait()
            self._has_batch.clear()
            while (batch := self._batch) is not None:
                time.sleep(BATCH_PATIENCE)
                report = batch.take_back_if_slow()
                if report is not None and not tell(report):
                    batch.put_back(report)
