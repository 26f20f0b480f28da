"""Two programs as FastWorker's documentation has them, as real processes: only their imports and the listener differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TASKS = """
import asyncio, json
from fastworker import Client, TaskPriority, task

@task
def process_data(data: dict) -> dict:
    return {"processed": True, "data": data}

@task
def divide(a, b):
    return a / b
"""

AWAITS_BY_CALLBACK = (
    TASKS
    + """
from fastworker.patterns.nng_patterns import PairPattern

async def listen(callback_address, received, count):
    listener = PairPattern(callback_address, is_server=True)
    await listener.start()
    while len(received) < count:
        data = json.loads(await listener.recv())
        received[data["task_id"]] = data
    listener.close()

async def main():
    client = Client()
    await client.start()
    address, received = "tcp://127.0.0.1:6000", {}
    listening = asyncio.create_task(listen(address, received, 21))
    ids = [
        await client.delay_with_callback("process_data", address, {"n": n}, callback_data={"request_id": n})
        for n in range(20)
    ]
    ids.append(await client.delay_with_callback("divide", callback_address=address, a=1, b=0))
    await listening
    client.stop()
    keys = ("status", "result", "error", "callback_data")
    print(json.dumps([[received[one][key] for key in keys] for one in ids]))

asyncio.run(main())
"""
)

#: The class that takes the place of FastWorker's socket: what is received is JSON text, as there.
LISTENER = """
from fastworker_lite import CallbackListener

class PairPattern(CallbackListener):
    def __init__(self, address, is_server):
        super().__init__(address)

    async def recv(self):
        return json.dumps(await anext(self))

    def close(self):
        asyncio.ensure_future(self.aclose())
"""

POLLS = (
    TASKS
    + """
async def main():
    client = Client(timeout=30, retries=3)
    await client.start()
    ids = [await client.delay("process_data", {"n": n}, priority=TaskPriority.HIGH) for n in range(20)]
    ids.append(await client.delay("divide", 1, b=0, priority="critical"))
    results = {}
    while len(results) < len(ids):
        for task_id in ids:
            result = await client.get_task_result(task_id)
            if result:
                results[task_id] = result
        await asyncio.sleep(0.05)
    last = await client.submit_task("divide", args=(8, 2))
    client.stop()
    ended = [results[one] for one in ids] + [last]
    print(json.dumps([[one.status, one.result, one.error] for one in ended]))

asyncio.run(main())
"""
)


@pytest.fixture
def run(tmp_path):
    """Runs a program written for FastWorker, its imports replaced, and returns what it printed."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "FWL_DB": str(tmp_path / "jobs.db"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }

    def run(program):
        path = tmp_path / "program.py"
        program = program.replace("from fastworker.patterns.nng_patterns import PairPattern\n", LISTENER)
        path.write_text(program.replace("from fastworker import", "from fastworker_lite import"))
        began = time.monotonic()
        done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, env=environment)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        print(f"the program ran for {time.monotonic() - began:.2f} s")
        return json.loads(done.stdout)

    return run


def test_a_program_that_awaits_results_by_callback_runs_unchanged(run):
    *good, bad = run(AWAITS_BY_CALLBACK)
    assert good == [["success", {"processed": True, "data": {"n": n}}, None, {"request_id": n}] for n in range(20)]
    assert bad == ["failure", None, "division by zero", None]


def test_a_program_that_polls_for_results_runs_unchanged(run):
    *good, bad, last = run(POLLS)
    assert good == [["success", {"processed": True, "data": {"n": n}}, None] for n in range(20)]
    assert bad == ["failure", None, "division by zero"] and last == ["success", 4.0, None]
