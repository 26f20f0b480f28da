"""The CPU time of a no-op job beside that of another checkout, in interleaved pairs.

Runs in: the measuring process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path

#: CPU microseconds of the workers for each of 10,000 no-op jobs, with the package of the folder that is given.
COST = """
    import resource, sys, tempfile
    sys.path.insert(0, sys.argv[1])
    from fastworker_lite import SyncClient
    database = tempfile.mkdtemp() + "/cost.db"
    with SyncClient(database, runner="never", durability="normal") as client:
        last = client.map(abs, range(10_000))[-1]
        with SyncClient(database, workers=2, runner="own"):
            last.wait(60)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print((used.ru_utime + used.ru_stime) / 10_000 * 1e6)
"""


def compare(other: str, pairs: int = 11) -> None:
    here = Path(__file__).resolve().parents[2]
    ratios = []
    for _ in range(pairs):
        theirs, ours = (cost(folder) for folder in (other, here))
        ratios.append(ours / theirs)
        print(f"  {theirs:6.1f} us there, {ours:6.1f} us here: {ratios[-1]:.3f}", flush=True)
    print(f"CPU time of a no-op job, median of {pairs} pairs: {statistics.median(ratios):.3f} of that in {other}")


def cost(folder: str | Path) -> float:
    command = [sys.executable, "-c", textwrap.dedent(COST), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment, timeout=120)
    return float(done.stdout)
