"""What a run did to its files, and the disk as a power cut at any moment may have left it.

What was synced is there. Of what was not, each write is there, or not, or in part: some of its 512-byte sectors. Names that
were made, moved and removed are there up to any moment since their folder was synced.

Runs in: the testing process.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
SOURCE = Path(__file__).with_name("recorder.c")
NO_COMPILER = "no power cuts: this machine has no C compiler (apt-get install gcc)"

_HEADER = struct.Struct("=cBHIQQ")


def find_compiler():
    """The C compiler of this machine, None when there is none."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def compile_library(source, folder):
    """Returns the path of what is made of *source*, to be loaded before all others."""
    library = os.path.join(folder, source.with_suffix(".so").name)
    command = [find_compiler(), "-shared", "-fPIC", "-O1", "-o", library, str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


class Record(NamedTuple):
    """One thing that was done to a file; see recorder.c."""

    kind: str
    name: str
    inode: int
    offset: int
    data: bytes


def read_records(path):
    raw, at, found = Path(path).read_bytes(), 0, []
    while at < len(raw):
        kind, _, name_size, size, offset, inode = _HEADER.unpack_from(raw, at)
        at += _HEADER.size
        name = raw[at : at + name_size].decode()
        at += name_size
        found.append(Record(kind.decode(), name, inode, offset, raw[at : at + size]))
        at += size
    return found


# ---- the disk


class File:
    """The bytes of one file: those on the disk, and what is to become of them."""

    def __init__(self):
        self.synced = bytearray()
        self.pending = []  # (number, record)

    def sync(self, last):
        """Whatever was done up to the record with this number is on the disk."""
        while self.pending and self.pending[0][0] <= last:
            _apply(self.synced, self.pending.pop(0)[1])

    def image(self, rng, kept, torn):
        """The bytes after a cut: each change is there with the chance *kept*, in part with the chance *torn*."""
        found = bytearray(self.synced)
        for _, record in self.pending:
            chance = rng.random()
            if chance < kept:
                _apply(found, record)
            elif chance < kept + torn and record.kind == "w":
                _apply_in_part(found, record, rng)
        return bytes(found)


def _apply(found, record):
    if record.kind == "t":
        if record.offset < len(found):
            del found[record.offset :]
        else:
            found.extend(bytes(record.offset - len(found)))
        return
    end = record.offset + len(record.data)
    found.extend(bytes(max(0, end - len(found))))
    found[record.offset : end] = record.data


def _apply_in_part(found, record, rng):
    first = record.offset // SECTOR
    for sector in range(first, (record.offset + len(record.data) - 1) // SECTOR + 1):
        if rng.random() < 0.5:
            begin = max(record.offset, sector * SECTOR)
            data = record.data[begin - record.offset : (sector + 1) * SECTOR - record.offset]
            _apply(found, Record("w", record.name, record.inode, begin, data))


class Disk:
    """What is on the disk, as records come."""

    def __init__(self):
        self._files = {}
        self._now = {}  # name: inode
        self._synced = {}
        self._pending = []  # (folders, change of names)
        self._begun = {}  # token of a sync: the last record before it
        self._number = 0

    def do(self, record):
        self._number += 1
        kind, name, inode = record.kind, record.name, record.inode
        if kind in "wt":
            self._files[inode].pending.append((self._number, record))
        elif kind == "b":
            self._begun[record.offset] = self._number
        elif kind == "e":
            self._files[inode].sync(self._begun.pop(record.offset))
        elif kind == "c" and self._now.get(name) != inode:
            self._files[inode] = File()
            self._change({os.path.dirname(name)}, {name: inode})
        elif kind == "u":
            self._change({os.path.dirname(name)}, {name: None})
        elif kind == "r":
            new = record.data.decode()
            folders = {os.path.dirname(name), os.path.dirname(new)}
            self._change(folders, {name: None, new: self._now.get(name)})
        elif kind == "d":
            self._sync_names("" if name == "." else name)

    def _change(self, folders, names):
        self._pending.append((folders, names))
        self._now |= names

    def _sync_names(self, folder):
        """They reach the disk in their order: with the last one of this folder, all before it."""
        last = max((at for at, (folders, _) in enumerate(self._pending) if folder in folders), default=-1)
        for _, names in self._pending[: last + 1]:
            self._synced |= names
        del self._pending[: last + 1]

    def image(self, rng):
        """Name and bytes of each file after a cut now."""
        kept, torn = rng.choice([(0.0, 0.0), (0.0, 1.0), (0.5, 0.25), (0.5, 0.25), (0.5, 0.25), (0.9, 0.1), (1.0, 0.0)])
        names = dict(self._synced)
        for _, change in self._pending[: rng.randint(0, len(self._pending))]:
            names |= change
        return {name: self._files[inode].image(rng, kept, torn) for name, inode in names.items() if inode is not None}
