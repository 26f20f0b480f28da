"""How soon `fwl` is there: what it imports, and what it costs beside an empty program with the same parser."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fastworker_lite.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"asyncio", "rich", "pydantic", "cloudpickle", "aiosqlite", "importlib.metadata", "multiprocessing", "secrets"}
EMPTY = "import typer\napp = typer.Typer(add_completion=False)\n@app.command()\ndef main() -> None: ...\napp()\n"


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FWL_", "PYTHONDONT"))}
    return kept | {
        "FWL_DB": str(tmp_path / "fwl.db"),
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"),  # as installed: compiled once
        "HOME": str(tmp_path),
    }


def imported(words: list[str], variables: dict[str, str], folder: Path) -> set[str]:
    """The modules that are loaded when `fwl WORD…` ends."""
    script = (
        "import os, sys\nfrom fastworker_lite.cli import main\n"
        "os._exit = lambda code: print(*sys.modules, file=sys.stderr)\nmain.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, env=variables, cwd=folder, check=False
    )
    modules = set(result.stderr.splitlines()[-1].split())
    assert "fastworker_lite.cli.main" in modules
    return modules


@pytest.mark.parametrize(
    "words", ["submit -- true", "status", "wait 1", "cancel 1", "show 1", "_complete zsh cancel x"]
)
def test_the_quick_commands_import_nothing_heavy(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "fastworker_lite", "run", "--", "true"], env=variables, cwd=tmp_path, check=True
    )
    assert imported(words.split(), variables, tmp_path) & HEAVY == set()


def test_only_the_command_that_is_called_is_imported(tmp_path: Path, variables: dict[str, str]) -> None:
    modules = {f"fastworker_lite.cli.{entry.function.partition(':')[0]}" for entry in COMMANDS.values()}
    assert imported(["status"], variables, tmp_path) & modules == {"fastworker_lite.cli.listing"}
    assert imported(["-h"], variables, tmp_path) & modules == {"fastworker_lite.cli.helping"}


def cpu(command: list[str], variables: dict[str, str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=variables, cwd=folder, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(("words", "most"), [("status", 1.25), ("submit -- true", 1.25)])
def test_a_quick_command_costs_little_more_than_an_empty_program(
    tmp_path: Path, variables: dict[str, str], words: str, most: float
) -> None:
    ours = [sys.executable, "-m", "fastworker_lite", *words.split()]
    empty = [sys.executable, "-c", EMPTY]
    for command in (ours, empty):  # compiled, and with a file to look into
        cpu(command, variables, tmp_path)
    pairs = []
    for _ in range(3):  # a busy machine makes single runs dearer, never cheaper
        pairs += [(cpu(ours, variables, tmp_path), cpu(empty, variables, tmp_path)) for _ in range(9)]
        ratio = min(one for one, _ in pairs) / min(other for _, other in pairs)
        if ratio <= most:
            break
    print(f"fwl {words}: {ratio:.2f} times an empty program")
    assert ratio <= most
