"""Figures of the line, on this machine: `python -m tests.bench`. Prints one line each; nothing here passes or fails.

`--against FOLDER` compares the CPU time of a no-op job with that of another checkout instead, in interleaved pairs.

Runs in: the measuring process.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from fastworker_lite import Client, SyncClient

COLD = """
    import sys, time
    began = time.monotonic()
    from fastworker_lite import SyncClient
    def noop(x): return x
    with SyncClient(sys.argv[1], workers=2, durability="normal") as client:
        client.submit(noop, 1).result(timeout=10)
        print(time.monotonic() - began)
"""


#: CPU microseconds of the workers for each of 10,000 no-op jobs, with the package of the folder that is given.
COST = """
    import resource, sys, tempfile
    sys.path.insert(0, sys.argv[1])
    from fastworker_lite import SyncClient
    database = tempfile.mkdtemp() + "/cost.db"
    with SyncClient(database, runner="never", durability="normal") as client:
        last = client.map(abs, range(10_000))[-1]
        with SyncClient(database, workers=2, runner="own"):
            last.wait(60)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print((used.ru_utime + used.ru_stime) / 10_000 * 1e6)
"""


def noop(value=None):
    return value


def compare_cost(other, pairs=11):
    here = Path(__file__).resolve().parents[2]
    ratios = []
    for _ in range(pairs):
        theirs, ours = (cost(folder) for folder in (other, here))
        ratios.append(ours / theirs)
        print(f"  {theirs:6.1f} us there, {ours:6.1f} us here: {ratios[-1]:.3f}", flush=True)
    print(f"CPU time of a no-op job, median of {pairs} pairs: {statistics.median(ratios):.3f} of that in {other}")


def cost(folder):
    command = [sys.executable, "-c", textwrap.dedent(COST), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment, timeout=120)
    return float(done.stdout)


async def delay_rate(database, count):
    async with Client(database, runner="never", durability="normal") as client:
        await client.delay("tests.bench.__main__:noop", 0)
        began = time.perf_counter()
        for number in range(count):
            await client.delay("tests.bench.tasks:noop", number)
        return count / (time.perf_counter() - began)


def drain_rate(database, count):
    with SyncClient(database, runner="never", durability="normal") as client:
        for start in range(0, count, 10_000):
            client.map("tests.bench.tasks:noop", range(start, min(count, start + 10_000)))
        last = client.handle(count)
        began = time.perf_counter()
        with SyncClient(database, workers=2, runner="own") as serving:
            warm = None
            while not last.wait(timeout=1):
                if time.perf_counter() - began > 60:
                    raise TimeoutError
            warm = time.perf_counter() - began
            first = client._call(_first_begin)
            total = client._call(_last_end) - first
            del serving
        return count / total, warm


def _first_begin(connection):
    return connection.read(lambda sql: sql.execute("SELECT min(started_at) FROM job").fetchone()[0])


def _last_end(connection):
    return connection.read(lambda sql: sql.execute("SELECT max(finished_at) FROM job").fetchone()[0])


async def latency(database, count):
    async with Client(database, workers=2, durability="normal") as client:
        await client.submit_task("tests.bench.tasks:noop", (1,))
        await asyncio.sleep(1)
        seconds = []
        for number in range(count):
            began = time.perf_counter()
            await client.submit_task("tests.bench.tasks:noop", (number,))
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds) * 1000, sorted(seconds)[int(count * 0.99)] * 1000


def cold_start(folder):
    script = Path(folder) / "cold.py"
    script.write_text(textwrap.dedent(COLD))
    done = subprocess.run([sys.executable, script, f"{folder}/cold.db"], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main():
    if "--against" in sys.argv:
        return compare_cost(sys.argv[sys.argv.index("--against") + 1])
    count = 2_000 if "--quick" in sys.argv else 20_000
    with tempfile.TemporaryDirectory() as folder:
        rate = asyncio.run(delay_rate(f"{folder}/delay.db", count // 4))
        print(f"await client.delay(), one after another, durability normal: {rate:,.0f}/s")
        rate, seconds = drain_rate(f"{folder}/drain.db", count)
        print(
            f"drain of {count:,} no-ops, 2 workers, durability normal:        {rate:,.0f}/s ({seconds:.2f} s with start)"
        )
        half, tail = asyncio.run(latency(f"{folder}/latency.db", count // 10))
        print(f"submit to result, warm, durability normal:                  p50 {half:.2f} ms, p99 {tail:.2f} ms")
        cold = statistics.median(cold_start(tempfile.mkdtemp(dir=folder)) for _ in range(5))
        print(f"embedded start to first result, cold:                       {cold:.3f} s")


if __name__ == "__main__":
    main()
