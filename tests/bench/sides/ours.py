"""fastworker_lite: the workloads as a program that uses it would do them."""

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import textwrap
import time

from told import main, quantiles, timed, until

from fastworker_lite import Client, SyncClient

TASK = "tests.bench.tasks:noop"


def database(folder):
    return os.path.join(folder, "ours.db")


class Serving:
    """A runner with workers in a process of its own."""

    def __init__(self, folder, durability="normal", workers=2):
        script = f"""
            import sys
            from fastworker_lite import SyncClient
            with SyncClient({database(folder)!r}, workers={workers}, runner="own", durability={durability!r}) as client:
                client.submit({TASK!r}, 0).result(timeout=30)
                print("ready", flush=True)
                sys.stdin.read()
        """
        self._command = [sys.executable, "-c", textwrap.dedent(script)]

    def __enter__(self):
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)


def read(client, statement):
    return client._call(lambda connection: connection.read(lambda sql: sql.execute(statement).fetchone()))


def fill(client, size, **options):
    for start in range(0, size, 20_000):
        client.options(**options).map(TASK, range(start, min(size, start + 20_000)))


# ---- W1, W2, W6: draining


def drained(size, folder, durability, backlog=0):
    with SyncClient(database(folder), runner="never", durability=durability) as client:
        if backlog:
            fill(client, backlog, priority="low")
        fill(client, size)
        last = client.handle(backlog + size)
        with SyncClient(database(folder), workers=2, runner="own", durability=durability):
            last.wait(timeout=300)
            where = f"WHERE id > {backlog} AND finished_at IS NOT NULL"
            first, end, count = read(client, f"SELECT min(started_at), max(finished_at), count(*) FROM job {where}")
            client._call(
                lambda connection: connection.write(lambda sql: sql.execute("UPDATE queue SET paused = 1").rowcount)
            )
        return {"rate": count / (end - first)}


def drain(size, folder):
    return drained(size, folder, "normal")


def drain_durable(size, folder):
    return drained(size, folder, "full")


def drain_deep(size, folder):
    """The rate for the first 10,000 jobs, with *size* more behind them."""
    return drained(10_000, folder, "normal", backlog=size)


# ---- W3: latency


def latency_of(size, folder, durability):
    with Serving(folder, durability), SyncClient(database(folder), runner="never", durability=durability) as client:
        time.sleep(0.5)
        return quantiles(timed(lambda number: client.submit(TASK, number).result(timeout=30), size))


def latency_of_asyncio(size, folder, durability):
    async def measure():
        async with Client(database(folder), runner="never", durability=durability) as client:
            seconds = []
            for number in range(-1, size):
                began = time.perf_counter()
                await (await client.submit(TASK, number))
                seconds.append(time.perf_counter() - began)
            return quantiles(seconds[1:])

    with Serving(folder, durability):
        time.sleep(0.5)
        return asyncio.run(measure())


# ---- W4, W5: submitting


def delay(size, folder):
    async def measure():
        async with Client(database(folder), runner="never", durability="normal") as client:
            await client.delay(TASK, 0)
            began = time.perf_counter()
            for number in range(size):
                await client.delay(TASK, number)
            return size / (time.perf_counter() - began)

    return {"rate": asyncio.run(measure())}


def delay_together(size, folder):
    async def measure():
        async with Client(database(folder), runner="never", durability="full") as client:
            await client.delay(TASK, 0)
            began = time.perf_counter()
            for start in range(0, size, 1_000):
                await asyncio.gather(*(client.delay(TASK, number) for number in range(start, start + 1_000)))
            return size / (time.perf_counter() - began)

    return {"rate": asyncio.run(measure())}


def bulk(size, folder):
    with SyncClient(database(folder), runner="never", durability="normal") as client:
        client.map(TASK, [0])
        began = time.perf_counter()
        client.map(TASK, range(size))
        return {"rate": size / (time.perf_counter() - began)}


# ---- W7: fairness


def fairness(size, folder):
    """How long `delay` takes at 200 a second for *size* / 200 seconds, while two workers drain."""

    async def measure():
        async with Client(database(folder), runner="never", durability="normal") as client:
            seconds, due = [], time.perf_counter()
            for number in range(size):
                due += 0.005
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                began = time.perf_counter()
                await client.delay(TASK, number)
                seconds.append(time.perf_counter() - began)
            return quantiles(seconds)

    with SyncClient(database(folder), runner="never", durability="normal") as client:
        fill(client, size * 100)
        with Serving(folder):
            found = asyncio.run(measure())
            left = read(client, "SELECT count(*) FROM job WHERE state = 'queued'")[0]
            client._call(
                lambda connection: connection.write(lambda sql: sql.execute("UPDATE queue SET paused = 1").rowcount)
            )
    return found | {"left": left}


# ---- W8: real work


def work(milliseconds):
    """How much of the ideal, all CPU time divided by two workers, is reached."""

    def measured(size, folder):
        with Serving(folder), SyncClient(database(folder), runner="never", durability="normal") as client:
            time.sleep(0.5)
            began = time.perf_counter()
            handles = client.map("tests.bench.tasks:burn", [milliseconds / 1000] * size)
            for handle in handles:
                handle.wait(timeout=300)
            return {"share": size * milliseconds / 1000 / 2 / (time.perf_counter() - began)}

    return measured


# ---- W9: coroutines


def coroutines(size, folder):
    with SyncClient(database(folder), workers=2, runner="own", durability="normal") as client:
        client.submit("tests.bench.tasks:nap", 0).result(timeout=30)
        began = time.perf_counter()
        for handle in client.map("tests.bench.tasks:nap", [0.5] * size):
            handle.wait(timeout=120)
        return {"seconds": time.perf_counter() - began}


# ---- W10, W11: at rest


def family(pid):
    """This process and all that descend from it."""
    found, pids = [], [pid]
    while pids:
        one = pids.pop()
        found.append(one)
        for task in os.listdir(f"/proc/{one}/task"):
            with open(f"/proc/{one}/task/{task}/children") as file:
                pids += [int(child) for child in file.read().split()]
    return found


def used(pids):
    """CPU seconds and voluntary switches of these processes, all threads together."""
    ticks = switches = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/status") as file:
                switches += int(file.read().split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return ticks / os.sysconf("SC_CLK_TCK"), switches


def idle(size, folder):
    """What *size* seconds of doing nothing cost."""
    with Serving(folder) as serving:
        time.sleep(2)
        pids = family(serving.process.pid)
        (cpu, switches), began = used(pids), time.monotonic()
        time.sleep(size)
        later_cpu, later_switches = used(pids)
        seconds = time.monotonic() - began
        return {
            "percent": 100 * (later_cpu - cpu) / seconds,
            "switches": (later_switches - switches) / seconds / len(pids),
        }


def resident(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += int(next(line for line in file if line.startswith("Pss:")).split()[1])
    return total / 1024


def memory(size, folder):
    """MiB of a runner and two workers at rest, and by what that grew over *size* jobs."""
    with Serving(folder) as serving, SyncClient(database(folder), runner="never", durability="normal") as client:
        time.sleep(1)
        at_rest = resident(family(serving.process.pid))
        fill(client, 10_000)
        client.handle(10_001).wait(timeout=120)
        before = resident(family(serving.process.pid))
        fill(client, size)
        client.handle(10_001 + size).wait(timeout=600)
        after = resident(family(serving.process.pid))
        return {"mib": at_rest, "growth": after / before}


# ---- W12, W13, W14, W15

COLD = """
    import sys
    from fastworker_lite import SyncClient
    def noop(x): return x
    with SyncClient(sys.argv[1], workers=2, durability="normal") as client:
        client.submit(noop, 1).result(timeout=10)
        print("done", flush=True)
        sys.stdin.read()
"""


def cold_start(size, folder):
    """From the start of the interpreter to the first result, the middle one of *size*."""
    seconds = []
    for number in range(size):
        began = time.perf_counter()
        command = [sys.executable, "-c", textwrap.dedent(COLD), os.path.join(folder, f"cold{number}.db")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"done\n"
            seconds.append(time.perf_counter() - began)
            process.stdin.close()
    return {"ms": statistics.median(seconds) * 1e3}


def cpu_of(command, folder):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, capture_output=True, check=True, env=os.environ | {"FWL_DB": database(folder)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


EMPTY = "import typer\napp = typer.Typer(add_completion=False)\n@app.command()\ndef main() -> None: ...\napp()\n"


def command_line(words):
    """How many times the CPU of an empty typer program, the middle one of *size*."""

    def measured(size, folder):
        ours = [sys.executable, "-m", "fastworker_lite", *words]
        empty = [sys.executable, "-c", EMPTY]
        for command in (ours, empty):
            cpu_of(command, folder)
        pairs = [(cpu_of(ours, folder), cpu_of(empty, folder)) for _ in range(size)]
        own, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        return {"times": own / other, "ms": own * 1e3}

    return measured


def shell_jobs(size, folder):
    with Serving(folder):
        lines = "\n".join(["x"] * size)
        began = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "fastworker_lite",
            "submit",
            "--from",
            "-",
            "--db",
            database(folder),
            "--",
            "true",
            "{}",
        ]
        ids = subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout.split()
        with SyncClient(database(folder), runner="never") as client:
            until(
                lambda: read(client, "SELECT count(*) FROM job WHERE kind = 'command' AND finished_at IS NULL")[0] == 0
            )
        return {"rate": len(ids) / (time.perf_counter() - began)}


def due_at_once(size, folder):
    """Seconds from the first to the last job of *size* schedules that were due together while nobody was there."""
    with SyncClient(database(folder), runner="never", durability="normal") as client:
        for number in range(size):
            client.schedule(f"one{number}", ["true"], every=20.0, repeat_count=1)
        time.sleep(20.5 - time.time() % 20)
        with SyncClient(database(folder), workers=1, runner="own", queues=["none"], durability="normal"):
            until(lambda: read(client, "SELECT count(*) FROM job")[0] >= size)
            first, last = read(client, "SELECT min(created_at), max(created_at) FROM job")
            return {"seconds": last - first}


if __name__ == "__main__":
    main(
        {
            "W1": drain,
            "W2": drain_durable,
            "W3": lambda size, folder: latency_of(size, folder, "normal"),
            "W3full": lambda size, folder: latency_of(size, folder, "full"),
            "W3async": lambda size, folder: latency_of_asyncio(size, folder, "normal"),
            "W3asyncfull": lambda size, folder: latency_of_asyncio(size, folder, "full"),
            "W4": delay,
            "W4full": delay_together,
            "W5": bulk,
            "W6": drain_deep,
            "W7": fairness,
            "W8short": work(1),
            "W8long": work(50),
            "W9": coroutines,
            "W10": idle,
            "W11": memory,
            "W12": cold_start,
            "W13submit": command_line(["submit", "--", "true"]),
            "W13status": command_line(["status"]),
            "W14": shell_jobs,
            "W15": due_at_once,
        }
    )
