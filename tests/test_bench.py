"""The benchmark works, small; its figures are for people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", [one.name for one in WORKLOADS if one.name not in ("W11", "W15")])
def test_a_workload_gives_figures(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "tests.bench", "--quick", "--only", name, "--json", str(tmp_path / "bench.json")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # where the others are not installed
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [result] = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert result["workload"] == name
    assert result["figures"]["ours"] and all(value >= 0 for value in result["figures"]["ours"].values())
    assert all(one["met"] in (True, False) for one in result["targets"])


def test_a_workload_that_is_none_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--only", "W99"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2 and "W99" in done.stderr
