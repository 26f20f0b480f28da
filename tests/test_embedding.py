"""The runner inside other people's programs: scripts with and without a guard, web applications, notebooks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest

from fastworker_lite import Client

ROOT = Path(__file__).resolve().parent.parent

ASYNC_SCRIPT = """
    import asyncio, sys, time
    began = time.monotonic()
    from fastworker_lite import Client, task

    @task
    def shout(text):
        return text.upper() + mark

    mark = "!"

    async def main():
        client = Client(sys.argv[1], workers=2)
        await client.start()
        print((await client.submit_task("shout", ("hey",))).result)
        print(f"first result after {time.monotonic() - began:.3f} s")
        client.stop()

    asyncio.run(main())
"""

PLAIN_SCRIPT = """
    import sys
    from dataclasses import dataclass
    from fastworker_lite import SyncClient

    print("body")

    @dataclass
    class Point:
        x: int

    def move(point, by):
        return Point(point.x + by)

    with SyncClient(sys.argv[1], workers=1) as client:
        moved = client.submit(move, Point(1), by=2).result(timeout=10)
        print(isinstance(moved, Point), moved.x)
"""

FORGETFUL_SCRIPT = """
    import asyncio, sys
    from fastworker_lite import Client

    async def main():
        client = Client(sys.argv[1], workers=1)
        await client.start()
        await client.delay("nobody")

    asyncio.run(main())
    print("end of main")
"""


#: FastWorker's ways of use, with its calls and its `client.stop()`: only the import is another.
PATTERN_TASKS = """
    from fastworker_lite import task

    @task
    def process_data(data):
        with open("done.txt", "a") as log:
            log.write(f"{data['n']}\\n")
        return data["n"] * 2
"""

BATCH_SCRIPT = """
    import asyncio
    import mytasks
    from fastworker_lite import Client

    async def main():
        client = Client(workers=2)
        await client.start()
        task_ids = []
        for n in range(10):
            task_ids.append(await client.delay("process_data", {"n": n}, priority="high"))
        results = {}
        while len(results) < len(task_ids):
            for task_id in task_ids:
                if task_id not in results:
                    result = await client.get_task_result(task_id)
                    if result:
                        results[task_id] = result
            await asyncio.sleep(0.01)
        print([results[task_id].result for task_id in task_ids], {r.status.value for r in results.values()})
        client.stop()

    asyncio.run(main())
"""

FORGET_SCRIPT = """
    import asyncio
    import mytasks
    from fastworker_lite import Client

    async def main():
        client = Client(workers=1)
        await client.start()
        await client.delay("process_data", {"n": 7})
        await asyncio.sleep(2)      # the application goes on with its own work
        client.stop()

    asyncio.run(main())
"""


def run_pattern(tmp_path, source):
    (tmp_path / "mytasks.py").write_text(textwrap.dedent(PATTERN_TASKS))
    (tmp_path / "app.py").write_text(textwrap.dedent(source))
    environment = os.environ | {"FWL_DB": str(tmp_path / "jobs.db")}
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=40
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_pattern_of_a_batch_with_polling(tmp_path):
    assert run_pattern(tmp_path, BATCH_SCRIPT) == f"{[2 * n for n in range(10)]} {{'success'}}\n"
    assert sorted((tmp_path / "done.txt").read_text().split(), key=int) == [str(n) for n in range(10)]


def test_the_pattern_of_fire_and_forget(tmp_path):
    assert run_pattern(tmp_path, FORGET_SCRIPT) == ""
    assert (tmp_path / "done.txt").read_text() == "7\n"


def test_the_pattern_of_a_web_endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("FWL_DB", str(tmp_path / "jobs.db"))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="ignore"):
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        app = FastAPI()
        client = Client(workers=1)

        @app.on_event("startup")
        async def startup():
            await client.start()

        @app.on_event("shutdown")
        async def shutdown():
            client.stop()

        @app.post("/process/")
        async def process(data: dict):
            return {"task_id": await client.delay("tests.sample_tasks:plain", data["n"])}

        @app.get("/result/{task_id}")
        async def show(task_id: str):
            result = await client.get_task_result(task_id)
            return {"status": result.status, "result": result.result} if result else {"status": "pending"}

        with TestClient(app) as web:
            task_id = web.post("/process/", json={"n": 21}).json()["task_id"]
            seen = []
            deadline = time.monotonic() + 20
            while not seen or seen[-1]["status"] == "pending":
                assert time.monotonic() < deadline
                seen.append(web.get(f"/result/{task_id}").json())
                time.sleep(0.01)
    assert seen[-1] == {"status": "success", "result": 42}


def run_script(tmp_path, source):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, str(script), str(tmp_path / "jobs.db")],
        capture_output=True,
        text=True,
        timeout=40,
        cwd=tmp_path,
    )


def test_an_asyncio_script_runs_tasks_of_its_main_module(tmp_path):
    done = run_script(tmp_path, ASYNC_SCRIPT)
    print(done.stdout)
    assert done.stdout.startswith("HEY!\n"), done.stderr
    assert done.returncode == 0 and done.stderr == ""


def test_a_plain_script_without_a_guard_runs_its_body_once(tmp_path):
    done = run_script(tmp_path, PLAIN_SCRIPT)
    assert done.stdout == "body\nTrue 3\n", done.stderr
    assert done.returncode == 0 and done.stderr == ""


def test_a_script_that_forgets_to_stop_the_client_still_ends(tmp_path):
    began = time.monotonic()
    done = run_script(tmp_path, FORGETFUL_SCRIPT)
    assert done.stdout == "end of main\n", done.stderr
    assert done.returncode == 0 and time.monotonic() - began < 15


def test_a_fastapi_application_starts_and_stops_it_in_its_lifespan(tmp_path):
    pytest.importorskip("httpx")
    with warnings.catch_warnings(action="ignore"):
        from contextlib import asynccontextmanager

        from fastapi import FastAPI
        from fastapi.testclient import TestClient

    client = Client(tmp_path / "jobs.db", workers=1)

    @asynccontextmanager
    async def lifespan(app):
        await client.start()
        yield
        await client.aclose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/jobs/{number}")
    async def submit(number: int):
        return {"id": await client.delay("tests.sample_tasks:plain", number)}

    @app.get("/jobs/{job_id}")
    async def show(job_id: str):
        result = await client.get_task_result(job_id)
        return {"result": result.result if result else None}

    with TestClient(app) as web:
        job_id = web.post("/jobs/21").json()["id"]
        deadline = time.monotonic() + 20
        while (found := web.get(f"/jobs/{job_id}").json()["result"]) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert found == 42


def test_a_running_loop_as_in_a_notebook_can_define_and_submit_tasks_cell_by_cell(tmp_path):
    loop = asyncio.new_event_loop()
    cells = {"database": str(tmp_path / "jobs.db")}
    try:
        exec("from fastworker_lite import Client, task\nclient = Client(database, workers=1)", cells)
        loop.run_until_complete(cells["client"].start())
        exec("@task\ndef double(x):\n    return 2 * x", cells)
        result = loop.run_until_complete(cells["client"].submit_task("double", (21,)))
        assert result.result == 42
    finally:
        loop.run_until_complete(cells["client"].aclose())
        loop.close()
