"""Looks after time and recovery: due jobs, dead workers, jobs past their timeout, an idle log.

Runs in: the runner's process, on a thread and an event loop of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from . import __version__, calls, declarations, hooks, interpreters, leases, queueing, registration, retention
from .callbacks import Limits, Postman
from .errors import DatabaseGone, FastWorkerError, PoolFailed
from .exchange import close_lease, open_lease
from .hooks import HookRunner
from .idleness import Idleness
from .job import Lane
from .leases import LeaderLease, Lease, Note
from .paths import SidePaths
from .pool import Pool
from .processes import WorkerProcess, WorkerSetup
from .recovery import Recovery
from .relay import FIRST_LOOK, LAST_LOOK, Relay
from .schedules import Timetable
from .settings import Config
from .sockets import Waker, WakeSocket, remove_stale_sockets, socket_directory
from .store import (
    cancelling,
    dependencies,
    due,
    events,
    jobs,
    limits,
    listeners,
    outbox,
    relays,
    runners,
    settling,
    waiters,
)
from .store.bridge import AsyncConnection
from .store.cancelling import Asked
from .store.connection import Connection
from .store.runners import Addresses
from .store.schedules import NewSchedule
from .watches import FileWatch

log = logging.getLogger("fastworker_lite")

#: Seconds after which a runner looks at the file again while there is something to run, whatever datagrams were lost.
LOOK_AGAIN = 1.0
#: Seconds without a write after which the log is written into the database.
IDLE = 2.0
#: The longest sleep while a job is scheduled: a suspended machine's timers do not see the time pass.
LONGEST_SLEEP = 30.0
NEVER = float("inf")
#: Seconds from becoming the leader to removing old jobs, and from then on to the next time.
FIRST_PRUNE, PRUNE_EVERY = 60.0, 3600.0
#: Seconds for which what was given up can be told again at a person's word.
DEAD_LETTERS_KEPT = 2_592_000.0
#: So many workers dying before they are ready, within so many seconds, end the runner.
EARLY_DEATHS, EARLY_SECONDS = 5, 10.0
#: The settings that a running runner takes over: those of what the leader sees to.
RELOADED = ("cron", "job", "queue", "listener", "hooks", "keep")


@dataclass(slots=True)
class _Sockets:
    wake: WakeSocket
    wake_async: WakeSocket
    control: WakeSocket
    outbox: WakeSocket

    @property
    def addresses(self) -> Addresses:
        return Addresses(self.wake.address, self.wake_async.address, self.control.address, self.outbox.address)

    def are_there(self) -> bool:
        """Whether others can still find them."""
        return all(os.path.exists(address) for address in self.addresses)

    def close(self) -> None:
        for one in (self.wake, self.wake_async, self.control, self.outbox):
            one.close()


class _Survey(NamedTuple):
    """What a runner reads when it looks at the file."""

    due: float | None
    waiting: list[bool]
    #: By lane, whether anything is queued.
    lease_of: dict[int, str]
    #: By id, every worker's lease.
    has_foreign: bool
    #: Whether any of them is another runner's.
    asked: list[Asked]
    has_outbox: bool
    has_relay: bool
    lives: list[tuple[str, str]]
    #: Name and lease of those who follow events, or listen, for as long as they live.


class Scheduler:
    """One runner: its workers, and its share in what runners of a file do together."""

    def __init__(
        self,
        database: str,
        config: Config,
        *,
        output: str | None = None,
        has_cron: bool = True,
        idle_exit: float | None = None,
        role: str = "embedded",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._paths = SidePaths.of(database)
        self._config = config
        self._output = output
        self._role = role
        self._clock = clock
        self._connection = AsyncConnection(database, durability=config.durability)
        self._waker = Waker()
        self._pool = Pool(self._paths, config.worker_count, self._make_setup, self._on_death)
        self._postman = Postman(self._connection, Limits(config.callbacks.max_age, config.callbacks.max_events, clock))
        self._hooks: HookRunner | None = None
        self._pruning: asyncio.Task[None] | None = None
        self._relay = Relay(clock)
        self._relay_pause = FIRST_LOOK
        self._is_leading = False
        self._in_file = declarations.from_config(config)  # what cannot be is refused here, before anything has begun
        self._python = interpreters.chosen(config)
        self._timetable = Timetable(self._declared, self._waker, clock) if has_cron else None
        self._idleness = None if idle_exit is None else Idleness(idle_exit, config.queues, clock, has_cron=has_cron)
        self._recovery = Recovery(self._paths, self._waker, config.max_log, clock)
        self._burials: set[asyncio.Task[None]] = set()
        self._early_deaths: deque[float] = deque(maxlen=EARLY_DEATHS)
        self._is_stopping = False
        self._stop_by: float | None = None
        self._terminate_sent = False
        self._last_write = 0.0
        self._look_at = 0.0
        self.error: FastWorkerError | None = None

    # ---- life

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve the file until `stop`. *on_ready* is called once the file is open."""
        self._happened = asyncio.Event()
        await self._connection.open()
        try:
            await self._open()
            on_ready()
            try:
                await self._serve()
            finally:
                await self._close()
        finally:
            await self._connection.close()

    async def _open(self) -> None:
        self._lease: Lease = await self._connection.run(open_lease, leases.new_name("r"))
        self._leader = LeaderLease(self._paths.leader)
        self._sockets = self._bind_sockets()
        self._runner = await self._connection.run(
            Connection.write_fast, runners.add_runner, self._lease.name, __version__, self._sockets.addresses,
            os.getpid(), self._clock(), self._role, self._config.queues,
        )  # fmt: skip
        self._log_watch = FileWatch(self._paths.wal)
        asyncio.get_running_loop().add_reader(self._log_watch.fileno(), self._on_write)
        self._read_sockets()
        self._targets = calls.registered_targets()
        self._pool.refill()
        await self._connection.run(Connection.write_fast, self._introduce)
        self._waker.poke(self._sockets.wake.address, len(self._pool.workers))

    def _introduce(self, sql: sqlite3.Connection) -> None:
        names = runners.set_known_tasks(sql, self._runner, self._targets)
        settling.release_parked(sql, names)

    def _read_sockets(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sockets.control.fileno(), self._on_poke)
        loop.add_reader(self._sockets.outbox.fileno(), self._on_something_to_tell)
        loop.add_reader(self._sockets.wake_async.fileno(), self._on_async_work)

    def _forget_sockets(self) -> None:
        loop = asyncio.get_running_loop()
        for one in (self._sockets.control, self._sockets.outbox, self._sockets.wake_async):
            loop.remove_reader(one.fileno())
        self._sockets.close()

    def _bind_again(self) -> None:
        """Somebody has removed our sockets. The workers share the old ones, which nobody can reach: others take their place."""
        log.warning("a socket of this runner was removed; it is bound again")
        self._forget_sockets()
        self._sockets = self._bind_sockets()
        self._read_sockets()
        for worker in self._pool.workers:
            worker.ask_to_stop()

    def _bind_sockets(self) -> _Sockets:
        directory = socket_directory(self._paths)
        remove_stale_sockets(directory)
        name = self._lease.name
        return _Sockets(*(WakeSocket(os.path.join(directory, f"{name}.{kind}")) for kind in ("w", "a", "c", "o")))

    async def _serve(self) -> None:
        while not (self._is_stopping and not self._pool.workers):
            self._happened.clear()
            try:
                seconds = self._step_stopping() if self._is_stopping else await self._look()
            except DatabaseGone as error:
                seconds = self._end_without_file(error)
            except (FastWorkerError, OSError) as error:
                log.warning("the runner tries again in a second: %s", error)
                self._look_at, seconds = 0.0, LOOK_AGAIN
            await self._sleep(seconds)

    async def _sleep(self, seconds: float | None) -> None:
        try:
            await asyncio.wait_for(self._happened.wait(), seconds)
        except TimeoutError:
            pass

    def stop(self) -> None:
        """Begin the end: no more claims; what runs may finish within `stop_timeout`. Said twice, it is ended now."""
        if self._is_stopping:
            self._stop_by = time.monotonic()
        else:
            self._is_stopping = True
            self._stop_by = time.monotonic() + self._config.stop_timeout
            self._pool.close()
        self._happened.set()

    def _end_without_file(self, error: DatabaseGone) -> float:
        """Begin the end at once: what runs has nowhere to leave its result, and a runner anew would find what is there now."""
        if self.error is None:
            log.error("the runner stops: %s", error)
            self.error = error
        self.stop()
        self.stop()
        return 0.0

    def reload(self, config: Config, in_file: list[NewSchedule]) -> None:
        """Have what the leader sees to be as these settings say, with the schedules *in_file*."""
        self._config = self._config._replace(**{name: getattr(config, name) for name in RELOADED})
        self._in_file = in_file
        self._is_leading = False
        self._look_at = 0.0
        self._happened.set()

    def _declared(self) -> tuple[list[NewSchedule], set[tuple[str, str]]]:
        return declarations.declared_here(self._config, self._in_file)

    def _step_stopping(self) -> float | None:
        assert self._stop_by is not None
        left = self._stop_by - time.monotonic()
        if left > 0:
            return left
        if not self._terminate_sent:
            self._terminate_sent = True
            self._stop_by = time.monotonic() + self._config.kill_grace
            self._pool.terminate()
            return self._config.kill_grace
        self._pool.kill()
        return None

    async def _close(self) -> None:
        self._pool.kill()
        await self._postman.close()
        if self._hooks is not None:
            await self._hooks.close()
        if self._pruning is not None:
            self._pruning.cancel()
            await asyncio.wait([self._pruning])
        asyncio.get_running_loop().remove_reader(self._log_watch.fileno())
        self._log_watch.close()
        try:
            await self._connection.run(Connection.write_fast, runners.remove_runner, self._runner)
            await self._connection.run(Connection.checkpoint)
        except FastWorkerError as error:
            log.warning("the runner's row stays behind: %s", error)
        self._forget_sockets()
        self._leader.release()
        await self._connection.run(lambda _: self._relay.close())
        await self._connection.run(close_lease, self._lease)
        self._waker.close()

    # ---- what happens

    def _on_poke(self) -> None:
        self._sockets.control.clear()
        self._relay_pause = FIRST_LOOK
        self._look_at = 0.0
        self._happened.set()

    def _on_something_to_tell(self) -> None:
        self._sockets.outbox.clear()
        self._tell_soon()

    def _tell_soon(self) -> None:
        self._postman.look_soon()
        if self._hooks is not None:
            self._hooks.wake()

    def _on_write(self) -> None:
        self._log_watch.clear()
        self._last_write = time.monotonic()
        self._look_at = min(self._look_at, self._last_write + LOOK_AGAIN)
        self._happened.set()

    def _on_async_work(self) -> None:
        """A coroutine may have been submitted, and nobody else reads that socket yet: the first one needs its worker."""
        self._sockets.wake_async.clear()
        self._look_at = 0.0
        self._happened.set()

    # ---- looking after the file

    async def _look(self) -> float | None:
        """Do what is due, and return the seconds until something will be; None when only an event can bring it."""
        now = time.monotonic()
        sleeps = [self._pool.end_late()]
        if now < self._look_at:
            return _soonest([*sleeps, None if self._look_at == NEVER else self._look_at - now])
        self._look_at = NEVER
        await self._connection.run(Connection.check_paths)
        if not self._sockets.are_there():
            self._bind_again()
        found = await self._connection.read(self._survey)
        soonest, waiting = found.due, found.waiting
        if self._leader.try_take():
            soonest = await self._lead(found)
            if found.has_relay:
                sleeps.append(await self._bring_over())
        if found.has_foreign:
            await self._connection.run(self._recovery.recover_foreign, self._pool.leases())
            sleeps.append(LOOK_AGAIN)
        sleeps.append(self._end_asked(found))
        if waiting[Lane.ASYNC]:
            self._ensure_async_worker()
        if waiting[Lane.SYNC] or waiting[Lane.ASYNC]:
            self._waker.poke(self._sockets.wake.address, len(self._pool.workers))
            self._wake_coroutines()
            sleeps.append(LOOK_AGAIN)
        self._pool.refill()  # starting a process takes its time: those that are there need not wait for it
        if soonest is not None:
            sleeps.append(min(max(0.0, soonest - self._clock()), LONGEST_SLEEP))
        sleeps.append(await self._settle_log())
        if self._idleness is not None:
            sleeps.append(await self._end_if_idle(self._idleness))
        seconds = _soonest(sleeps[1:])
        if seconds is not None:
            self._look_at = min(self._look_at, time.monotonic() + seconds)
        return _soonest([sleeps[0], seconds])

    async def _lead(self, found: _Survey) -> float | None:
        """Do what one runner does for all. Returns when the next job is due, or the next tick of a schedule."""
        if not self._is_leading:
            await self._begin_leading()
        if found.lives:
            await self._connection.run(self._recovery.forget_the_dead, found.lives)
        if found.has_outbox:
            self._tell_soon()
        soonest = found.due
        if soonest is not None and soonest <= self._clock():
            await self._make_due()
            soonest = await self._connection.read(due.next_due)
        if self._timetable is not None:
            soonest = _soonest([soonest, await self._connection.run(self._timetable.step)])
        return soonest

    async def _end_if_idle(self, idleness: Idleness) -> float | None:
        """Begin the end when there was nothing to do for long enough. Returns the seconds until that, None while there is."""
        left = await self._connection.run(idleness.left)
        if left != 0 or self._is_stopping:
            return left
        if await self._connection.run(Connection.write_fast, idleness.leave, self._runner):
            self.stop()
        return 0.0

    async def _bring_over(self) -> float:
        """Store what applications have submitted in their own databases. Returns the seconds to the next look."""
        count, trouble = await self._connection.run(self._relay.look)
        if trouble is not None:
            log.warning("jobs of an application are brought over later: %s", trouble)
        if count:
            self._look_at = 0.0
            for where in await self._connection.read(runners.addresses):
                self._waker.poke(where.wake, count)
                self._waker.poke(where.wake_async, count)
        pause, self._relay_pause = self._relay_pause, min(2 * self._relay_pause, LAST_LOOK)
        return min(pause, LONGEST_SLEEP)

    def _survey(self, sql: sqlite3.Connection) -> _Survey:
        lease_of = {row.id: row.lease for row in runners.workers(sql)}
        return _Survey(
            due=due.next_due(sql),
            waiting=[sql.execute(jobs.PROBE, {"lane": lane}).fetchone() is not None for lane in Lane],
            lease_of=lease_of,
            has_foreign=not self._pool.leases().issuperset(lease_of.values()),
            asked=cancelling.asked_to_stop(sql),
            has_outbox=not outbox.is_empty(sql),
            has_relay=bool(relays.sources(sql)),
            lives=[*events.for_a_life(sql), *listeners.for_a_life(sql)],
        )

    def _wake_coroutines(self) -> None:
        """Have their worker look, if there is one: else this runner would hear it itself, look again, and so without end."""
        if self._pool.has_async:
            self._waker.poke(self._sockets.wake_async.address)

    def _end_asked(self, found: _Survey) -> float | None:
        if not found.asked:
            return None
        self._wake_coroutines()  # they are cancelled by their worker
        return self._pool.end_asked(found.asked, found.lease_of)

    async def _make_due(self) -> None:
        def transact(sql: sqlite3.Connection) -> tuple[list[int], list[Addresses], set[str]]:
            now = self._clock()
            ended = due.expire(sql, now)
            follow = dependencies.resolve(sql, now)
            counts = due.make_due(sql, now)
            released = (
                limits.release_by_time(sql, now) + len(follow.released) + len(ended)
            )  # which may have held a place
            waiting = waiters.take(sql, [*ended, *follow.cancelled])
            return [count + released for count in counts], runners.addresses(sql), waiting

        counts, everybody, waiting = await self._connection.write(transact)
        self._waker.poke_all(waiting)
        self._tell_soon()  # of those that expired
        for where in everybody:
            self._waker.poke(where.wake, counts[Lane.SYNC])
            self._waker.poke(where.wake_async, counts[Lane.ASYNC])

    async def _settle_log(self) -> float | None:
        """Have the next write reported; and after two seconds without one, empty the log. Returns when to look again."""
        self._log_watch.arm()
        quiet = time.monotonic() - self._last_write
        if not self._leader.is_held or not os.path.getsize(self._paths.wal):
            return None
        if quiet < IDLE:
            return IDLE - quiet
        is_empty = await self._connection.run(Connection.checkpoint)
        return None if is_empty else LOOK_AGAIN

    # ---- workers

    def _make_setup(self, lane: Lane, lease: str) -> WorkerSetup:
        wake = self._sockets.wake if lane is Lane.SYNC else self._sockets.wake_async
        config = self._config
        return WorkerSetup(
            database=self._paths.database,
            lease=lease,
            runner=self._runner,
            runner_pid=os.getpid(),
            lane=lane,
            wake=wake.fileno(),
            control=self._sockets.control.address,
            modules=config.tasks,
            tasks=self._targets,
            queues=config.queues,
            kill_grace=config.kill_grace,
            max_result=config.max_result,
            max_coroutines=config.max_coroutines,
            max_log=config.max_log,
            max_jobs=config.max_jobs_per_worker,
            max_memory=config.max_memory_per_worker,
            output=self._output,
            python=self._python,
            path=interpreters.module_folders(config) if self._python is not None else (),
        )

    def _ensure_async_worker(self) -> None:
        if self._pool.ensure_async():
            asyncio.get_running_loop().remove_reader(self._sockets.wake_async.fileno())

    def _on_death(self, worker: WorkerProcess, note: Note, code: int | None) -> None:
        burial = asyncio.get_running_loop().create_task(self._bury(worker, note, code))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def _bury(self, worker: WorkerProcess, note: Note, code: int | None) -> None:
        """Recover what a worker of ours held, and put another in its place."""
        while True:
            try:
                was_ready = await self._connection.run(self._recovery.recover_own, worker, note, code)
                break
            except DatabaseGone as error:
                self._end_without_file(error)
                was_ready = True
                break
            except (FastWorkerError, OSError) as error:
                log.warning("the jobs of a dead worker are recovered in a second: %s", error)
                if self._is_stopping:
                    was_ready = True
                    break
                await asyncio.sleep(LOOK_AGAIN)
        leases.discard(worker.lease_path)
        self._pool.remove(worker)
        if worker.setup.lane is Lane.ASYNC and not self._is_stopping:
            asyncio.get_running_loop().add_reader(self._sockets.wake_async.fileno(), self._on_async_work)
        if not was_ready:
            self._count_early_death(code)
        self._look_at = 0.0
        self._happened.set()

    def _count_early_death(self, code: int | None) -> None:
        now = time.monotonic()
        self._early_deaths.append(now)
        if len(self._early_deaths) == EARLY_DEATHS and now - self._early_deaths[0] < EARLY_SECONDS:
            self.error = PoolFailed(f"{EARLY_DEATHS} workers ended before they were ready, the last with status {code}")
            log.error("%s; see what they wrote to stderr", self.error)
            if not self._is_stopping:
                self.stop()

    # ---- leading

    async def _begin_leading(self) -> None:
        """The leader tells whoever listens, and runs the hooks of its configuration."""
        config = self._config
        await self._postman.open()
        if self._hooks is not None and self._hooks.settings != config.hooks:
            await self._hooks.close()
            self._hooks = None
        if config.hooks.is_wanted:
            await self._connection.write(hooks.register, self._clock())
            if self._hooks is None:
                self._hooks = HookRunner(config.hooks, self._connection, self._paths, self._lease.name)
                self._hooks.start()
        else:
            await self._connection.write(listeners.unregister, hooks.NAME)
        for one in config.listener:
            listener = registration.new_listener(one.address, one.task, one.queue, one.on, one.name)
            await self._connection.run(registration.register_listener, listener)
        for queue in config.queue:
            await self._connection.run(queueing.change_queue, self._waker, queue.name, dict(queue.limits))
        if self._timetable is not None:
            await self._connection.run(self._timetable.register)
        if self._pruning is None:
            self._pruning = asyncio.get_running_loop().create_task(self._prune_now_and_then())
        # Last: when the file was busy, all of it is done again; and so it is when the settings have changed meanwhile.
        self._is_leading = config is self._config

    async def _prune_now_and_then(self) -> None:
        """Remove what ended long ago: soon after the start, and every hour."""
        await asyncio.sleep(FIRST_PRUNE)
        while True:
            try:
                await self._prune()
            except FastWorkerError as error:
                log.warning("old jobs are removed later: %s", error)
            await asyncio.sleep(PRUNE_EVERY)

    async def _prune(self) -> None:
        if self._timetable is not None:
            await self._connection.run(self._timetable.forget_old)
        keep, now = self._config.keep, self._clock()
        await self._connection.write(limits.forget_full, now)
        await self._give_up_callbacks(now)
        before = retention.moments(keep, now)
        results_before = None if keep.results is None else now - keep.results
        steps = await self._connection.run(
            lambda connection: retention.prune(connection, before, keep.jobs, results_before=results_before)
        )
        while await self._connection.run(lambda _: next(steps, None)) is not None:
            await asyncio.sleep(0.05)  # others want the gate, too

    async def _give_up_callbacks(self, now: float) -> None:
        """What waits too long for a listener becomes a dead letter, and a dead letter goes after as long again."""
        most, max_age = self._config.callbacks.max_events, self._config.callbacks.max_age
        await self._connection.write(outbox.give_up_overdue, now - max_age, most)
        while await self._connection.write(outbox.forget_dead, now - max_age - DEAD_LETTERS_KEPT, most):
            await asyncio.sleep(0.05)


def _soonest(sleeps: list[float | None]) -> float | None:
    return min((seconds for seconds in sleeps if seconds is not None), default=None)
