"""A clock that the nemesis can put forward and back for all processes of a run at once: `time.time` plus an offset in a file.

Runs in: every process of a run.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

from tests.chaos import ledger

_OFFSET = struct.Struct("=d")
NAME = "clock"


def create(folder):
    with open(os.path.join(folder, NAME), "wb") as file:
        file.write(_OFFSET.pack(0.0))


def put(folder, seconds):
    """Have every clock of the run be wrong by so much."""
    with open(os.path.join(folder, NAME), "r+b") as file:
        file.write(_OFFSET.pack(seconds))


def install():
    with open(os.path.join(ledger.folder(), NAME), "rb") as file:
        offset = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    true_time = time.time
    time.time = lambda: true_time() + _OFFSET.unpack_from(offset)[0]
