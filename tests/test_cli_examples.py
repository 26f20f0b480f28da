"""Every line of help that begins with `fwl` does what it is there for when it is typed; every `fwl …` of a message exists."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from fastworker_lite.cli import parsing
from fastworker_lite.cli.commands import COMMANDS
from fastworker_lite.cli.helping import paragraphs
from fastworker_lite.cli.topics import TOPICS

ROOT = Path(__file__).resolve().parent.parent

SETTINGS = """
db = ".fastworker/fwl.db"
tasks = ["mytasks"]
[queue]
gpu = { workers = 1 }
io = { workers = 2 }
mail = { workers = 1 }
[cron]
nightly-backup = { schedule = "30 2 * * *", command = ["true"] }
nightly = { schedule = "30 2 * * *", command = ["true"] }
[hooks]
on_failure = ["true"]
"""
TASKS = "from fastworker_lite import task\n\n\n@task\ndef add(a, b):\n    return a + b\n"

#: What programs named in examples do here.
PROGRAMS = {
    "crontab": 'if [ "$1" = -l ]; then echo "0 3 * * * /bin/true"; else cat > installed; fi',
    "systemctl": 'echo "ActiveState=active\nUnitFileState=enabled"',
    "loginctl": "echo Linger=yes",
    **dict.fromkeys(["make", "curl", "ffmpeg", "backup.sh", "thumbs.sh", "fetch.sh", "notify-send"], "exit 0"),
}

#: What no folder can be made ready for: they end with this.
ELSEWHERE = {
    "fwl top": 2,  # needs a terminal
    "fwl top --interval 5s": 2,
    "fwl status --watch --queue io": 2,
    "fwl notify test unix:///run/app.sock": 1,  # nobody listens there
    "fwl health": 69,  # without a worker
    "fwl health --max-queue-age 15m --max-failed 0 --since 24h": 69,
    "fwl stop": 69,
    "fwl stop --now": 69,
    "fwl cancel --now @running": 3,
    "fwl init": 4,  # there is a fastworker.toml
}
#: What has to be done first.
BEFORE = {"fwl service status": "fwl service install"}
#: They go on until they are told to stop, or until a worker comes.
ENDLESS = re.compile(r"fwl (worker|listen\b(?!ers)|.* (-f)\b|wait|cron run .*--wait)")


def typed_in_help() -> Iterator[str]:
    for name, entry in COMMANDS.items():
        if not entry.is_hidden:
            for text, is_examples in paragraphs(parsing.load(name).help or ""):
                yield from text.splitlines() if is_examples else ()


def typed_in_topics() -> Iterator[str]:
    for text in TOPICS.values():
        for line in text.splitlines():
            if re.match(r" +(fwl|crontab) ", line):
                yield from re.split(r", (?=fwl )", re.split(r" {2,}", line.strip())[0])


EXAMPLES = sorted(set(typed_in_help()) | set(typed_in_topics()))


@pytest.fixture(scope="module")
def ready() -> Iterator[Path]:
    """A folder in which the jobs, queues, programs and schedules of the examples exist."""
    with tempfile.TemporaryDirectory() as parent:  # sockets want a short path
        yield prepare(Path(parent) / "ready")


def prepare(folder: Path) -> Path:
    folder.mkdir()
    (folder / "fastworker.toml").write_text(SETTINGS)
    (folder / "mytasks.py").write_text(TASKS)
    (folder / "a.mp4").touch()
    (folder / "bin").mkdir()
    (folder / "fetch.sh").write_text("#!/bin/sh\n")
    (folder / "fetch.sh").chmod(0o755)
    (folder / ".config" / "fish" / "completions").mkdir(parents=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(sys.executable)
    programs = PROGRAMS | {"fwl": f'exec {shlex.quote(sys.executable)} -m fastworker_lite "$@"'}
    for name, text in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    type_in(
        folder,
        "fwl submit --queue io -- true; for i in $(seq 42); do echo true; done | fwl submit --from - -- sh -c {}",
    )
    type_in(folder, "fwl submit -- false; fwl drain || true")
    type_in(folder, "fwl submit --from - -- sh -c {} <<'.'\nmake\nmake\nmake\n.\nfwl hold 47")
    type_in(
        folder, "for q in io gpu; do fwl submit --queue $q -- make; done; fwl listeners add app unix:///run/app.sock"
    )
    return folder


def type_in(folder: Path, line: str, seconds: float = 60) -> tuple[int | None, str]:
    """The line's exit code, None if it went on for so long, and what it said to a person."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FWL_")}
    variables = kept | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "PYTHONPATH": str(ROOT),
        "XDG_RUNTIME_DIR": str(folder / "run"), "FWL_AUTOSTART": "0",
    }  # fmt: skip
    with subprocess.Popen(
        ["sh", "-c", line], cwd=folder, env=variables, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as typed:  # fmt: skip
        try:
            said = typed.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            os.killpg(typed.pid, signal.SIGINT)
            return None, typed.communicate()[1]
    return typed.returncode, said


@pytest.fixture(scope="module")
def typed(ready: Path) -> Iterator[dict[str, Future[tuple[int | None, str]]]]:
    """What became of each example, each in a folder of its own."""

    def try_it(line: str) -> tuple[int | None, str]:
        folder = ready.with_name(f"{EXAMPLES.index(line)}")
        shutil.copytree(ready, folder, symlinks=True, ignore=shutil.ignore_patterns("sockets"))
        if line in BEFORE:
            type_in(folder, BEFORE[line])
        return type_in(folder, line.removeprefix("*/5 * * * * "), 1.0 if ENDLESS.match(line) else 60)

    with ThreadPoolExecutor(3) as threads:
        yield {line: threads.submit(try_it, line) for line in EXAMPLES}


@pytest.mark.parametrize("line", EXAMPLES)
def test_what_help_says_to_type_works(typed: dict[str, Future[tuple[int | None, str]]], line: str) -> None:
    code, said = typed[line].result()

    assert "Traceback" not in said
    assert code in ((None, 0) if ENDLESS.match(line) else (ELSEWHERE.get(line, 0),)), said


# ---- what messages say to type


def texts(node: ast.AST) -> Iterator[str]:
    """Each text in the code, with an x where a value is filled in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "x" for part in child.values)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
        else:
            yield from texts(child)


#: Words that follow `fwl` in sentences about it, where the command is filled in, and in the scripts for shells.
PROSE = {"reads", "runs", "itself", "and", "is", "x", "x?", "found", "fi"}
#: A command up to where the words of another program, another sentence, or another command begin.
TYPED = re.compile(r"\bfwl ((?:--db \S+ )?[a-z][a-z-]*\b.*?)(?= -- |\. | {3}|[`\n:;|()]|,? fwl |$)")


def named_in_messages() -> Iterator[tuple[str, list[str]]]:
    for file in sorted((ROOT / "fastworker_lite").rglob("*.py")):
        for text in texts(ast.parse(file.read_text())):
            for found in TYPED.finditer(re.sub(r"\n *", " ", text)):
                yield file.name, [word.strip(".,'\"") for word in re.sub("--db \\S+ ", "", found[1]).split()]


def test_every_command_and_option_that_a_message_names_exists() -> None:
    seen = set()
    for file, words in named_in_messages():
        if words[0] not in PROSE:
            assert words[0] in COMMANDS, (file, words)
            path = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
            known = {flag for option in parsing.load(path).params for flag in option.opts}
            assert {word for word in words if re.fullmatch(r"--[a-z-]+", word)} <= known, (file, words)
            seen.add(path)
    assert len(seen) > 30
