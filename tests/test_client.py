"""The asyncio client against real workers."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from fastworker_lite import (
    Client,
    ConfigError,
    DatabaseGone,
    JobCancelled,
    JobFailed,
    JobNotFound,
    PayloadTooLarge,
    ResultTimeout,
    SerializationError,
    SyncClient,
    TaskPriority,
    TaskStatus,
)
from fastworker_lite.store.connection import Connection
from tests import sample_tasks


@pytest.fixture
def database(tmp_path):
    return tmp_path / "jobs.db"


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 50))


def test_a_submitted_task_gives_its_result(database):
    async def main():
        async with Client(database, workers=1) as client:
            return await client.submit_task("add", (5, 3))

    result = run(main())
    assert (result.status, result.result, result.error, result.task_id) == (TaskStatus.SUCCESS, 8, None, "1")
    assert result.status == "success"
    assert result.started_at.tzinfo is UTC and result.completed_at >= result.started_at
    assert '"status": "success"' in result.model_dump_json()


def test_twenty_delays_each_give_their_own_value_and_run_once(database, tmp_path):
    log = tmp_path / "log"

    async def main():
        async with Client(database, workers=4) as client:
            began = time.monotonic()
            ids = [await client.delay("record", str(log), value, 0.5) for value in range(20)]
            found = {}
            while len(found) < 20:
                for task_id in ids:
                    result = await client.get_task_result(task_id)
                    if result:
                        found[task_id] = result.result
                await asyncio.sleep(0.02)
            return [found[task_id] for task_id in ids], time.monotonic() - began

    values, seconds = run(main())
    lines = log.read_text().splitlines()
    assert values == list(range(20))
    assert sorted(line.split()[1] for line in lines if line.startswith("begin")) == sorted(map(str, range(20)))
    assert seconds < 4, f"{seconds:.2f} s"


def test_gathered_submits_each_get_their_own_id_and_value(database):
    async def main():
        async with Client(database, workers=3) as client:
            return await asyncio.gather(*(client.submit_task("slow", (pause, pause)) for pause in (0.3, 0.1, 0.2)))

    results = run(main())
    assert [result.result for result in results] == [0.3, 0.1, 0.2]
    assert len({result.task_id for result in results}) == 3


def test_a_task_that_raises_is_a_failure_with_its_text_and_traceback(database):
    async def main():
        async with Client(database, workers=1) as client:
            missing = await client.submit_task("divide", (1,))
            return await client.submit_task("divide", (1, 0)), missing

    result, missing = run(main())
    assert (result.status, result.error, result.error_type) == ("failure", "division by zero", "ZeroDivisionError")
    assert "return a / b" in result.traceback
    assert "missing 1 required positional argument: 'b'" in missing.error


def test_an_unknown_task_is_not_found(database):
    async def main():
        async with Client(database, workers=1) as client:
            return await client.submit_task("nobody_knows_it")

    result = run(main())
    assert result.status == "failure"
    assert result.error == "Task nobody_knows_it not found"


def test_a_native_job_of_an_unknown_task_waits_until_a_runner_knows_it(database):
    async def main():
        async with Client(database, workers=1) as client:
            handle = await client.submit("tests.not_there:nothing")
            while await handle.status() != "blocked":
                await asyncio.sleep(0.01)
            return await handle.cancel(), await handle.status()

    assert run(main()) == (True, "cancelled")


def test_waiting_too_long_is_a_failure_and_the_task_goes_on(database):
    async def main():
        async with Client(database, workers=1) as client:
            late = await client.submit_task("slow", (0.5, "v"), timeout=0.1)
            handle = client.handle(late.task_id)
            return late, await handle.result(timeout=5)

    late, value = run(main())
    assert late.status == "failure" and "timed out" in late.error
    assert value == "v"


@pytest.mark.parametrize("priority", ["HIGH", "urgent", 5, None])
def test_a_priority_that_does_not_exist_is_refused(database, priority):
    async def main():
        client = Client(database, runner="never")
        try:
            with pytest.raises(ValueError, match="priority must be"):
                await client.delay("add", 1, 2, priority=priority)
            return client.get_status("1")
        finally:
            await client.aclose()

    assert run(main()) is None


@pytest.mark.parametrize("args", ["abc", 5, {"a": 1}])
def test_arguments_that_are_no_sequence_are_refused(database, args):
    async def main():
        async with Client(database, runner="never") as client:
            with pytest.raises((ValueError, TypeError)):
                await client.submit_task("add", args)
            with pytest.raises((ValueError, TypeError)):
                await client.submit_task("add", 5, 3)

    run(main())


def test_what_cannot_be_pickled_or_is_too_large_stores_nothing(database):
    async def main():
        async with Client(database, runner="never") as client:
            with pytest.raises(SerializationError):
                await client.delay("add", (n for n in range(3)))
            with pytest.raises(PayloadTooLarge, match="max_payload = 1048576"):
                await client.delay("add", b"x" * 1048577)
            with pytest.raises(ConfigError, match='did you mean "priority"'):
                client.options(priorty=3)
            return client.get_status("1")

    assert run(main()) is None


def test_the_urgent_ones_run_first_and_equal_ones_in_order(database, tmp_path):
    log = tmp_path / "log"

    async def main():
        async with Client(database, runner="never") as client:
            for priority in ("low", TaskPriority.NORMAL, "critical", "high", "normal"):
                await client.delay("record", str(log), str(priority), priority=priority)
        async with Client(database, workers=1) as client:
            while client.get_result("1") is None:
                await asyncio.sleep(0.02)

    run(main())
    order = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("begin")]
    assert order == ["critical", "high", "normal", "normal", "low"]


def test_a_batch_is_stored_whole_or_not_at_all(database):
    async def main():
        async with Client(database, runner="never") as client:
            with pytest.raises(ConfigError, match="entry 1"):
                await client.submit_batch([{"task_name": "add"}, {"name": "add"}])
            return await client.submit_batch([{"task_name": "add", "args": (1, n)} for n in range(3)])

    assert run(main()) == ["1", "2", "3"]


def test_a_countdown_and_an_eta_are_kept(database):
    async def main():
        async with Client(database, workers=1) as client:
            began = time.time()
            later = await client.delay("add", 1, 1, countdown=0.4)
            at = await client.delay("add", 2, 2, eta=datetime.now(UTC) + timedelta(seconds=0.6))
            assert client.get_status(later) is TaskStatus.SCHEDULED
            first, second = await client.handle(later).result(5), await client.handle(at).result(5)
            results = client.get_result(later), client.get_result(at)
            return first, second, [result.started_at.timestamp() - began for result in results]

    first, second, waited = run(main())
    assert (first, second) == (2, 4)
    assert 0.4 <= waited[0] < 1.5 and 0.6 <= waited[1] < 1.5, waited


def test_coroutines_run_many_at_a_time(database):
    async def main():
        async with Client(database, workers=1) as client:
            await client.submit_task("nap", (0, 0))
            began = time.monotonic()
            handles = await client.map(_nap_half_a_second, range(200))
            values = [await handle.result(10) for handle in handles]
            return values, time.monotonic() - began

    values, seconds = run(main())
    assert values == list(range(200))
    assert seconds < 3, f"{seconds:.2f} s"


async def _nap_half_a_second(value):
    await asyncio.sleep(0.5)
    return value


def test_functions_lambdas_and_closures_can_be_submitted(database):
    factor = 7

    async def main():
        async with Client(database, workers=1) as client:
            plain = await client.submit(sample_tasks.plain, 3, b=5)
            closure = await client.submit(lambda value: value * factor, 6)
            by_name = await client.submit_task("tests.sample_tasks:plain", (4,))
            return await plain, await closure, by_name.result

    assert run(main()) == (15, 42, 8)


def test_handles_report_and_can_be_pickled(database):
    async def main():
        async with Client(database, workers=2) as client:
            good = await client.options(priority="high", name="a").submit(sample_tasks.plain, 1)
            bad = await client.submit(sample_tasks.divide, 1, 0)
            late = await client.options(delay=60).submit(sample_tasks.plain, 1)
            assert await good.wait(5) and await good.status() == "succeeded"
            with pytest.raises(JobFailed, match="division by zero"):
                await bad
            with pytest.raises(ResultTimeout):
                await late.result(timeout=0.05)
            assert await late.cancel()
            with pytest.raises(JobCancelled):
                await late
            with pytest.raises(JobNotFound):
                await client.handle(999).result()
            copy = pickle.loads(pickle.dumps(good))
            try:
                return await copy.result(5)
            finally:
                await copy._client.aclose()

    assert run(main()) == 2


def test_completed_handles_come_in_the_order_of_their_end(database):
    async def main():
        async with Client(database, workers=3) as client:
            handles = [await client.submit(sample_tasks.slow, pause, pause) for pause in (0.6, 0.1, 0.3)]
            return [await handle async for handle in client.as_completed(handles)]

    assert run(main()) == [0.1, 0.3, 0.6]


def test_a_failing_job_is_tried_again_as_often_as_its_task_says(database, tmp_path):
    async def main():
        async with Client(database, workers=1) as client:
            result = await client.submit_task("flaky", (str(tmp_path / "count"),))
            return result.result, result.attempt

    assert run(main()) == (3, 3)


def test_a_job_past_its_timeout_is_ended_and_the_next_one_runs(database):
    async def main():
        async with Client(database, workers=1) as client:
            began = time.monotonic()
            result = await client.submit_task("overslept")
            seconds = time.monotonic() - began
            return result, seconds, (await client.submit_task("add", (1, 1))).result

    result, seconds, after = run(main())
    assert (result.status, result.error) == ("failure", "timed out after 0.3s")
    assert seconds < 5 and after == 2


def test_a_result_that_cannot_be_stored_is_a_failure(database):
    async def main():
        async with Client(database, workers=1) as client:
            handle = await client.submit(sample_tasks.make_lock)
            with pytest.raises(JobFailed, match="result cannot be stored"):
                await handle
            return (await client.submit_task("add", (1, 1))).result

    assert run(main()) == 2


def test_unknown_ids_have_no_result_and_no_status(database):
    async def main():
        async with Client(database, runner="never") as client:
            return [
                (await client.get_task_result(task_id), client.get_status(task_id), await client.cancel_task(task_id))
                for task_id in ("77", "", "abc", "-1", "9" * 40, None)
            ]

    assert run(main()) == [(None, None, False)] * 6


def test_a_client_serves_several_event_loops(database):
    client = Client(database, workers=1)

    async def start():
        await client.start()

    async def call():
        return (await client.submit_task("add", (1, 2))).result

    asyncio.run(start())
    try:
        assert [asyncio.run(call()) for _ in range(3)] == [3, 3, 3]
    finally:
        asyncio.run(client.aclose())


def test_no_result_waits_for_the_second_look(database):
    async def main():
        async with Client(database, workers=2, durability="normal") as client:
            await client.submit_task("add", (0, 0))
            seconds = []
            for number in range(200):
                began = time.perf_counter()
                await client.submit_task("add", (number, 1))
                seconds.append(time.perf_counter() - began)
            return sorted(seconds)

    seconds = run(main())
    print(f"submit to result, 200 times: p50 {seconds[100] * 1000:.2f} ms, max {seconds[-1] * 1000:.1f} ms")
    assert seconds[-1] < 0.9  # a lost poke costs the full second


def test_a_thousand_concurrent_delays_share_commits(database):
    async def main():
        async with Client(database, runner="never") as client:
            await client.delay("add", 0, 0)
            began = time.monotonic()
            ids = await asyncio.gather(*(client.delay("add", n, n) for n in range(1000)))
            return ids, 1000 / (time.monotonic() - began)

    ids, rate = run(main())
    print(f"1,000 concurrent delays, durability full: {rate:,.0f}/s")
    assert len(set(ids)) == 1000


def test_two_jobs_that_come_at_once_wake_two_idle_workers(database):
    async def main():
        async with Client(database, workers=2, durability="normal") as client:
            await asyncio.gather(*(client.submit_task("slow", (0.2, 0)) for _ in range(4)))
            apart = []
            for _ in range(25):
                both = await asyncio.gather(*(client.submit_task("slow", (0.02, 0)) for _ in range(2)))
                apart.append(abs((both[0].started_at - both[1].started_at).total_seconds()))
                await asyncio.sleep(0.01)
            return apart

    apart = run(main())
    assert sorted(apart)[12] < 0.015, "the second job waited for the first one's worker"
    assert max(apart) < 0.5, "a wake-up was lost, and made good by the second look"


def test_what_was_submitted_before_the_end_is_stored_and_answered(database):
    async def main():
        client = Client(database, runner="never")
        await client.delay("add", 1, 1)
        waiting = [asyncio.ensure_future(client.delay("add", number, 1)) for number in range(50)]
        await asyncio.sleep(0)
        await client.aclose()
        ids = await asyncio.gather(*waiting)
        states = [client.get_status(task_id) for task_id in ids]
        client.stop()
        return ids, states

    ids, states = run(main())
    assert len(set(ids)) == 50 and states == ["queued"] * 50


def test_a_thread_that_waits_is_told_that_the_client_was_closed_and_leaves_nothing_open(submitter):
    said = []
    client = SyncClient(submitter.database, runner="never")
    handle = client.options(delay=60).submit(sample_tasks.add, 1, 2)

    def wait():
        try:
            handle.result(timeout=20)
        except DatabaseGone as error:
            said.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not submitter._call(Connection.read, lambda sql: sql.execute("SELECT 1 FROM waiter").fetchone()):
        time.sleep(0.01)
    client.close()
    waiting.join()
    assert said == [f"{client.database} was closed"] and client._connection is None and client._waiters == []


def test_a_client_whose_file_is_gone_can_be_closed(database):
    client = SyncClient(database, runner="never")
    client.options(delay=60).submit(sample_tasks.add, 1, 2).on_done(print)
    client.dispatch()
    os.rename(database, f"{database}.old")

    client.close()
    assert client._connection is None
