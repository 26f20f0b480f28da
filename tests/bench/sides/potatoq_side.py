"""potatoq on SQLite, its defaults, and a worker with two processes."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

from potatoq import Potatoq
from told import main, quantiles, timed, until

FOLDER = os.environ.get("BENCH_FOLDER") or sys.argv[3]
PATH = os.path.join(FOLDER, "potatoq.db")
app = Potatoq("bench", broker=f"sqlite:///{PATH}")


@app.task(name="noop")
def noop(value):
    return value


class Worker:
    def __enter__(self):
        here = os.path.dirname(os.path.abspath(__file__))
        command = [sys.executable, "-m", "potatoq", "-A", "potatoq_side:app", "worker", "-c", "2", "-l", "ERROR"]
        environment = os.environ | {"PYTHONPATH": here, "BENCH_FOLDER": FOLDER}
        self.process = subprocess.Popen(
            command, env=environment, cwd=FOLDER, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def finished():
    with sqlite3.connect(PATH) as sql:
        return sql.execute("SELECT count(*) FROM potatoq_results").fetchone()[0]


def drain(size, folder):
    for number in range(size):
        noop.delay(number)
    with Worker():
        until(lambda: finished() > 0, pause=0.002)
        began, before = time.perf_counter(), finished()
        until(lambda: finished() >= size)
        return {"rate": (size - before) / (time.perf_counter() - began)}


def latency(size, folder):
    with Worker():
        noop.delay(0).get(timeout=30)
        return quantiles(timed(lambda number: noop.delay(number).get(timeout=30), size))


def enqueue(size, folder):
    noop.delay(0)
    began = time.perf_counter()
    for number in range(size):
        noop.delay(number)
    return {"rate": size / (time.perf_counter() - began)}


if __name__ == "__main__":
    main({"W1": drain, "W3": latency, "W4": enqueue})
