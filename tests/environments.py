"""Virtual environments of other Pythons than the one that runs the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

VERSIONS = Path("~/.pyenv/versions").expanduser()


def python_of(version: tuple[int, int]) -> str:
    """A Python of this version, skipping the test where there is none."""
    name = f"{version[0]}.{version[1]}"
    found = sorted(VERSIONS.glob(f"{name}.*/bin/python"))
    path = str(found[-1]) if found else shutil.which(f"python{name}")
    if sys.version_info[:2] == version:
        path = sys.executable
    if path is None:
        pytest.skip(f"there is no Python {name} on this machine")
    return path


def environment_of(version: tuple[int, int], folder: Path, *packages: str) -> Path:
    path = folder / f"env-{version[0]}.{version[1]}"
    pip = ["--without-pip"] if not packages else []
    subprocess.run([python_of(version), "-m", "venv", *pip, path], check=True, capture_output=True)
    if packages:
        install = [path / "bin/pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{' '.join(packages)} cannot be installed: {done.stderr[-200:]}")
    return path
