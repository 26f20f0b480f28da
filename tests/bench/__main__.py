"""The benchmark: `python -m tests.bench`.

Ours and the others' in turn in one run, several times over; what counts is the ratio of the medians. Prints a table, and writes
`bench.json` where it is asked to. Nothing here passes or fails: a target that is not met is said.

    python -m tests.bench --peers        # once: installs huey and potatoq into a venv of their own
    python -m tests.bench                # everything; about half an hour
    python -m tests.bench --quick        # small, to see that it works
    python -m tests.bench --only W1,W3   # some of it
    python -m tests.bench --against DIR  # CPU of a no-op job beside that of another checkout

Runs in: the measuring process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import against
from .workloads import WORKLOADS, Target, Workload

ROOT = Path(__file__).resolve().parents[2]
SIDES = Path(__file__).parent / "sides"
PEERS = Path(tempfile.gettempdir()) / f"fastworker-lite-bench-{os.getuid()}"
PROGRAMS = {
    "ours": "ours.py",
    "pool": "pool.py",
    "raw": "raw.py",
    "huey": "huey_side.py",
    "potatoq": "potatoq_side.py",
    "xargs": "xargs_side.py",
}
PACKAGES = ("huey", "potatoq")


def install_peers() -> None:
    subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
    subprocess.run([PEERS / "bin" / "pip", "install", "-q", *PACKAGES], check=True)


def run_side(side: str, workload: str, size: int) -> dict[str, float] | None:
    """The figures of one side, None where it is not installed."""
    side, _, other = side.partition(":")
    python = PEERS / "bin" / "python" if side in PACKAGES else Path(sys.executable)
    if not python.exists():
        return None
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        done = subprocess.run(
            [python, SIDES / PROGRAMS[side], other or workload, str(size), folder],
            capture_output=True, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=900,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side} {workload}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def name_of(side: str) -> str:
    """What a side is called in the table: `pool`, `huey without fsync`."""
    return "huey without fsync" if side == "huey:W1nosync" else side.partition(":")[0]


def measure(workload: Workload, size: int, rounds: int) -> dict[str, dict[str, float]]:
    """For each side the median of each figure, measured in turn."""
    seen: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for side in workload.sides:
            if (found := run_side(side, workload.name, size)) is not None:
                seen.setdefault(name_of(side), []).append(found)
    return {side: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for side, runs in seen.items()}


def verdict(target: Target, found: dict[str, dict[str, float]]) -> dict[str, Any] | None:
    """How ours stands to a target; None where there is nobody to compare with."""
    if target.against is not None and target.against not in found:
        return None
    ours = found["ours"][target.figure]
    reached = ours / found[target.against][target.figure] if target.against is not None else ours
    is_met = reached <= target.factor if target.is_most else reached >= target.factor
    return {"figure": target.figure, "target": target.text, "reached": reached, "met": is_met}


def shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def put(workload: Workload, size: int, found: dict[str, dict[str, float]], verdicts: list[dict[str, Any]]) -> None:
    sides = "  ".join(f"{side} {shown(one[workload.figure])}{workload.unit}" for side, one in found.items())
    print(f"{workload.name:12}{workload.title} ({size:,})\n            {sides}", flush=True)
    for one in verdicts:
        mark = "met" if one["met"] else "NOT MET"
        print(f"            {one['figure']} {one['target']}: {shown(one['reached'])}  {mark}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure, ours and the others' in turn.")
    parser.add_argument("--peers", action="store_true", help="install the others into a venv of their own, and end")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--only", metavar="W1,W3", default="", help="some of the workloads")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured [5]")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--picture", metavar="FILE", help="draw them, with the extra `bench`")
    parser.add_argument("--against", metavar="DIR", help="CPU of a no-op job beside that of another checkout")
    given = parser.parse_args()
    if given.against:
        return against.compare(given.against)
    if given.peers:
        return install_peers()
    wanted = set(filter(None, given.only.split(",")))
    if unknown := wanted - {one.name for one in WORKLOADS}:
        parser.error(f"no workload {', '.join(sorted(unknown))}")
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(machine, flush=True)
    results = []
    for workload in (one for one in WORKLOADS if not wanted or one.name in wanted):
        for size in (workload.quick,) if given.quick else workload.sizes:
            found = measure(workload, size, 1 if given.quick else given.rounds)
            is_last = given.quick or size == workload.sizes[-1]
            verdicts = [one for target in workload.targets if is_last and (one := verdict(target, found)) is not None]
            put(workload, size, found, verdicts)
            results.append(
                {
                    "workload": workload.name,
                    "title": workload.title,
                    "size": size,
                    "figures": found,
                    "targets": verdicts,
                }
            )
    document = {"machine": machine, "results": results}
    if given.json:
        Path(given.json).write_text(json.dumps(document, indent=1) + "\n")
    if given.picture:
        from .picture import draw

        draw(document, given.picture)


if __name__ == "__main__":
    main()
