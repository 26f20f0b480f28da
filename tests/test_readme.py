"""What the README shows is run."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from fastworker_lite import SyncClient
from fastworker_lite.store import outbox

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run_block(block, folder):
    script = folder / "block.py"
    script.write_text(block)
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=folder, timeout=50)


def test_the_python_blocks_print_what_they_should(tmp_path):
    printed = []
    for number, block in enumerate(blocks("python")):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = run_block(block, folder)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        printed.append(done.stdout)
    assert printed == [
        "success 8\n3\n",
        "12\n[1, 4, 9]\n",
        "content ['failed', 'failed', 'succeeded'] ['attempt 3']\nTrue failed True cancelled\n",
        "3\n18 2/2 done\n121\n",
        "[('greet', 1, 'every 200ms'), ('refresh', 2, 'every 200ms')]\nTrue\n",
        "success 42 {'request': 7}\n",
    ]


def test_the_listener_in_plain_python_is_told_and_acknowledges(tmp_path):
    script = tmp_path / "listener.py"
    script.write_text(blocks("py")[0])
    address = tmp_path / "app.sock"
    with subprocess.Popen([sys.executable, script, address], stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert told_by(tmp_path, address, lambda: listener.stdout.readline()) == "1 success\n"
        finally:
            listener.kill()


def test_the_listener_in_shell_is_told_and_acknowledges(tmp_path):
    loop = next(block for block in blocks("sh") if block.startswith("#!/bin/sh"))
    address = tmp_path / "app.sock"
    log = tmp_path / "events.ndjson"
    with socket.socket(socket.AF_UNIX) as server:  # stands in for socat, which may not be installed
        server.bind(str(address))
        server.listen()

        def answer():
            connection, _ = server.accept()
            with (
                connection,
                subprocess.Popen(["sh", "-c", loop], stdin=connection, stdout=connection, cwd=tmp_path) as shell,
            ):
                while not log.exists() or not log.read_text().endswith("\n"):
                    time.sleep(0.01)
                time.sleep(0.3)
                shell.kill()
            return json.loads(log.read_text())["status"]

        assert told_by(tmp_path, address, answer) == "success"


def told_by(folder, address, listen):
    """What *listen* returns once a job with a callback has ended; afterwards nothing must be left to tell."""
    with SyncClient(folder / "jobs.db", workers=1, runner="own") as client:
        client.options(callback=f"unix://{address}").submit(abs, -1)
        told = listen()
        deadline = time.monotonic() + 5
        while client._call(lambda connection: connection.read(outbox.addresses)):
            assert time.monotonic() < deadline, "it was not acknowledged"
            time.sleep(0.02)
    return told


def test_the_first_command_does_its_work_on_the_files_of_the_checkout(tmp_path):
    command = blocks("sh")[0].strip()
    assert "\n" not in command
    # The environment of this test run stands in for the one that the command would make.
    _, _, rest = command.partition(" && export ")
    command = "export " + rest.replace(".venv/bin/fwl", f"{sys.executable} -m fastworker_lite").replace(
        "$PWD/.venv", str(tmp_path)
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=55)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("succeeded") == len(list((ROOT / "fastworker_lite").rglob("*.py")))


def test_the_test_command_is_the_one_that_ci_runs():
    command = blocks("sh")[1].strip()
    assert "\n" not in command
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -q -e '.[test]'" in command and "pip install -q -e '.[test]'" in ci
    assert "python -m pytest -q" in command and "python -m pytest -q" in ci


def test_every_command_in_the_readme_exists():
    names = set(re.findall(r"^fwl (\w+)", "\n".join(blocks("sh")), re.MULTILINE))
    helped = subprocess.run(
        [sys.executable, "-m", "fastworker_lite", "--help"], capture_output=True, text=True, timeout=20
    )
    assert names and all(re.search(rf"\b{name}\b", helped.stdout) for name in names), helped.stdout
