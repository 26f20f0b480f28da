"""`fwl listen`, `fwl listeners`, `fwl events`, `fwl prune` and `--notify`, as real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastworker_lite import SyncCallbackListener, SyncClient
from tests.test_crash import until

ROOT = Path(__file__).resolve().parent.parent


def command(database, *words):
    return [sys.executable, "-m", "fastworker_lite", "--db", database, *words]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


def fwl(database, *words, code=0):
    done = subprocess.run(
        command(database, *words), capture_output=True, text=True, timeout=30, env=environment(), cwd=ROOT
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def start(database, *words):
    return subprocess.Popen(command(database, *words), stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT)


def registered(client):
    return [one.name for one in client.listeners()]


def test_listen_prints_how_jobs_end_and_leaves_nothing_behind(database):
    with SyncClient(database, workers=1, runner="own") as client:
        with start(database, "listen", "--task", "*abs") as listening:
            until(lambda: registered(client))
            client.submit(len, "xy").wait(timeout=10)
            client.submit(abs, -3).wait(timeout=10)
            event = json.loads(listening.stdout.readline())
            listening.send_signal(signal.SIGINT)
            assert listening.wait(timeout=10) == 130
        assert (event["status"], event["result"], event["task_id"]) == ("success", 3, "2")
        assert registered(client) == []


def test_a_killed_listen_is_forgotten_by_the_runner(database):
    with SyncClient(database, workers=1, runner="own") as client:
        with start(database, "listen") as listening:
            until(lambda: registered(client))
            listening.kill()
        deadline = time.monotonic() + 10
        while registered(client):
            client.submit(abs, -1).wait(timeout=10)
            assert time.monotonic() < deadline


def test_a_named_listen_misses_nothing_while_it_is_away(database):
    with SyncClient(database, workers=1, runner="own") as client:
        with start(database, "listen", "--name", "audit") as listening:
            until(lambda: registered(client))
            client.submit(abs, -1).wait(timeout=10)
            listening.stdout.readline()
            listening.kill()
        client.submit(abs, -2).wait(timeout=10)
        with start(database, "listen", "--name", "audit") as listening:
            seen = {json.loads(listening.stdout.readline())["task_id"]}
            while "2" not in seen:
                seen.add(json.loads(listening.stdout.readline())["task_id"])
            listening.kill()
        assert registered(client) == ["audit"]


def test_listeners_are_added_listed_paused_and_removed(database, tmp_path):
    address = f"unix://{tmp_path}/app.sock"
    fwl(database, "listeners", "add", "app", address, "--task", "resize*", "--on", "failure")
    listed = json.loads(fwl(database, "listeners", "--json").stdout)
    assert listed["schema"] == "fwl.listeners/1"
    assert listed["listeners"] == [
        {
            "name": "app",
            "address": f"{tmp_path}/app.sock",
            "task": "resize*",
            "queue": None,
            "on": ["failure"],
            "state": "registered",
            "waiting": 0,
            "dead": 0,
            "oldest_at": None,
        }
    ]
    fwl(database, "listeners", "pause", "app")
    assert "paused" in fwl(database, "listeners").stdout
    fwl(database, "listeners", "resume", "app")
    fwl(database, "listeners", "remove", "app")
    assert "no listeners" in fwl(database, "listeners").stderr
    assert 'no listener "app"' in fwl(database, "listeners", "remove", "app", code=3).stderr


@pytest.mark.parametrize(
    "words",
    [("add", "x", "tcp://example.org:80"), ("add", "x", "unix:///" + "y" * 200), ("add", "x", "/s", "--on", "z")],
)
def test_a_listener_that_cannot_be_is_refused(database, words):
    assert fwl(database, "listeners", *words, code=2).stderr.startswith("error: ")
    assert json.loads(fwl(database, "listeners", "--json").stdout)["listeners"] == []


def test_what_was_given_up_is_shown_and_told_again(database, tmp_path):
    address = tmp_path / "app.sock"
    with SyncClient(database, workers=1, runner="own") as client:
        client.options(callback=str(address)).submit(abs, -1).wait(timeout=10)
        client._call(
            lambda connection: connection.write(lambda sql: sql.execute("UPDATE outbox SET dead = 'too old'").rowcount)
        )
        assert "too old" in fwl(database, "listeners", "--dead").stdout
        with SyncCallbackListener(address) as listener:
            fwl(database, "listeners", "redeliver", str(address))
            assert [event["task_id"] for event in listener.poll(10)] == ["1"]


def test_a_command_tells_the_socket_that_notify_names(database, tmp_path):
    address = tmp_path / "app.sock"
    with SyncCallbackListener(address) as listener, SyncClient(database, workers=1, runner="own"):
        fwl(database, "submit", "--notify", f"unix://{address}", "--", "sh", "-c", "exit 3")
        [event] = listener.poll(10)
    assert (event["status"], event["error"], event["task_name"]) == ("failure", "exit 3", "sh")


def test_events_are_printed_as_they_happen_and_kept_for_a_name(database):
    with SyncClient(database, workers=1, runner="own") as client:
        with start(database, "events", "--name", "audit", "-f") as following:
            until(
                lambda: client._call(
                    lambda connection: connection.read(
                        lambda sql: sql.execute("SELECT count(*) FROM follower").fetchone()[0]
                    )
                )
            )
            time.sleep(0.3)
            client.submit(abs, -1).wait(timeout=10)
            seen = [json.loads(following.stdout.readline()) for _ in range(3)]
            following.kill()
        assert [event["event"] for event in seen] == ["queued", "started", "succeeded"]
        client.submit(abs, -2).wait(timeout=10)
        later = fwl(database, "events", "--name", "audit", "--since", str(seen[-1]["offset"])).stdout.splitlines()
        assert [json.loads(line)["job_id"] for line in later] == ["2", "2", "2"]
    fwl(database, "events", "--forget", "audit")
    fwl(database, "events", "--forget", "audit", code=3)


def test_prune_removes_what_is_old_and_says_how_much_before(database):
    with SyncClient(database, workers=1, runner="own") as client:
        for handle in client.map(abs, range(3)):
            assert handle.wait(timeout=10)
    assert fwl(database, "prune", "--dry-run").stdout == "0 jobs would be removed\n"
    assert fwl(database, "prune", "--older-than", "0s", "--dry-run").stdout == "2 jobs would be removed\n"
    removal = fwl(database, "prune", "--older-than", "0s", "--yes", "--json")
    assert json.loads(removal.stdout)["removed"] == 2  # the newest stays
    assert "is not how a job ends" in fwl(database, "prune", "--state", "running", code=2).stderr


# ---- fwl notify test


def test_a_listener_is_tried_and_a_missing_one_is_said_to_be(database, tmp_path):
    address = str(tmp_path / "app.sock")
    with SyncCallbackListener(address) as listener:
        with subprocess.Popen(command(database, "notify", "test", address), env=environment(), cwd=ROOT) as trying:
            [event] = listener.poll(10)
            assert listener.poll(0) == []  # acknowledges it
            assert trying.wait(timeout=10) == 0
        assert (event["task_name"], event["status"]) == ("fwl notify test", "success")
    assert "No such file" in fwl(database, "notify", "test", address, code=1).stderr


def test_the_configured_hooks_are_tried_and_what_fails_is_named(database, tmp_path):
    told = tmp_path / "told"
    config = tmp_path / "fastworker.toml"
    config.write_text(
        f"[hooks]\non_success = ['sh', '-c', 'cat > {told}']\non_failure = ['false']\nping = 'http://127.0.0.1:9/x'\n"
    )

    done = fwl(database, "--config", str(config), "notify", "test", code=1)

    assert json.loads(told.read_text())["task_name"] == "fwl notify test"
    assert "error: false ended with 1" in done.stderr and "http://127.0.0.1:9/x/start" in done.stderr
    config.write_text("")
    assert "no hooks" in fwl(database, "--config", str(config), "notify", "test", code=1).stderr
