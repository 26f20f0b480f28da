"""Hooks: commands and pings when jobs end."""

from __future__ import annotations

import http.server
import json
import threading
import time

import pytest

from fastworker_lite import Client, ConfigError, SyncClient, building
from fastworker_lite.job import Command
from fastworker_lite.options import JobOptions
from fastworker_lite.store import events as event_store
from fastworker_lite.store.connection import Connection
from tests import ending_tasks as tasks
from tests.test_crash import lines, until


def shell(script):
    return ["sh", "-c", script]


def test_each_hook_runs_for_its_end_with_the_job_in_its_environment_and_on_its_stdin(database, tmp_path):
    log, flag, told = tmp_path / "log", tmp_path / "flag", tmp_path / "told"
    hooks = {
        "on_success": shell(f'echo "success $FWL_JOB_ID $FWL_JOB_STATE" >> {log}; cat >> {told}'),
        "on_failure": shell(f'echo "failure $FWL_JOB_ID $FWL_JOB_REASON" >> {log}'),
        "on_recovered": shell(f'echo "recovered $FWL_JOB_NAME" >> {log}'),
    }
    with SyncClient(database, workers=1, runner="own", hooks=hooks) as client:
        client.submit(tasks.needs_file, str(flag)).wait(timeout=10)
        flag.write_text("")
        for _ in range(2):
            client.submit(tasks.needs_file, str(flag)).result(timeout=10)
        until(lambda: len(lines(log)) == 4)
    assert lines(log) == [
        "failure 1 FileNotFoundError",
        "success 2 succeeded",
        "recovered tests.ending_tasks:needs_file",
        "success 3 succeeded",
    ]
    assert [json.loads(line)["task_id"] for line in lines(told)] == ["2", "3"]


def test_a_hook_that_fails_hangs_or_is_not_there_fails_no_job_and_holds_up_no_other(database, tmp_path):
    log = tmp_path / "log"
    hooks = {"on_success": shell(f"echo x >> {log}; sleep 60"), "on_failure": ["/nowhere/at/all"], "timeout": 0.2}
    with SyncClient(database, workers=1, runner="own", hooks=hooks) as client:
        assert client.submit(tasks.raises_key_error).wait(timeout=10)
        assert [client.submit(abs, -1).result(timeout=10) for _ in range(3)] == [1, 1, 1]
        until(lambda: len(lines(log)) == 3)


def test_hooks_that_had_no_time_are_run_by_the_next_runner_and_none_wait_where_none_are_wanted(database, tmp_path):
    log = tmp_path / "log"
    hooks = {"on_success": shell(f"sleep 1; echo $FWL_JOB_ID >> {log}")}
    with SyncClient(database, workers=1, runner="own", hooks=hooks) as client:
        for handle in client.map(abs, range(5)):
            handle.wait(timeout=10)
    began = time.monotonic()
    assert len(lines(log)) < 5
    with SyncClient(database, workers=1, runner="own", hooks=hooks):
        until(lambda: len(lines(log)) >= 5)
    assert sorted(set(lines(log))) == ["1", "2", "3", "4", "5"] and time.monotonic() - began < 12
    with SyncClient(database, workers=1, runner="own") as client:
        assert client.submit(abs, -1).result(timeout=10) == 1
        assert client.listeners() == []


def test_a_ping_is_posted_with_how_it_ended(database):
    pinged = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            pinged.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hooks = {"ping": f"http://127.0.0.1:{server.server_port}/id/"}
        with SyncClient(database, workers=1, runner="own", hooks=hooks) as client:
            client.submit(abs, -1).wait(timeout=10)
            client.submit(tasks.raises_key_error).wait(timeout=10)
            command = building.build_command(Command(argv=None, shell="exit 7", cwd="/"), None, JobOptions())
            client._store([command])
            until(lambda: len(pinged) == 6)
            [follower] = client._call(Connection.read, event_store.followers)
        assert follower[1] is not None, "for the runner's lifetime alone: events cost everybody something"
        server.shutdown()
    assert [path for path in pinged if path != "/id/start"] == ["/id/0", "/id/1", "/id/7"]
    assert pinged.count("/id/start") == 3
    with SyncClient(database, runner="never") as client:
        assert client._call(Connection.read, event_store.followers) == []


@pytest.mark.parametrize(
    "hooks",
    [{"on_success": "echo done"}, {"on_sucess": ["x"]}, {"ping": "ftp://x"}, {"desktop": 1}, {"timeout": -1}, ["x"]],
)
def test_hooks_that_cannot_be_are_refused(database, hooks):
    with pytest.raises(ConfigError, match="hooks"):
        Client(database, hooks=hooks)
