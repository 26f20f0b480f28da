"""What is promised when the disk fails or loses power, in short. The long form is `python -m tests.chaos --soak`."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastworker_lite import SyncClient
from fastworker_lite.errors import NotOurDatabase, SchemaTooNew
from fastworker_lite.store import checking
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.create import SCHEMA_VERSION
from tests.chaos import damage, disks, fixture, powercuts, race, recording
from tests.test_chaos import SEED, hold


@pytest.mark.skipif(recording.find_compiler() is None, reason=recording.NO_COMPILER)
def test_a_power_cut_loses_nothing_that_was_acknowledged_and_ends_nothing_twice():
    hold(powercuts.cut_the_power(SEED))


def test_a_call_of_the_database_that_fails_costs_nothing_whichever_it_is():
    hold(disks.fail_calls(SEED))


def test_a_damaged_file_crashes_nothing_and_nothing_that_was_changed_is_run():
    hold(damage.damage_files(SEED))


def test_without_room_nothing_is_acknowledged_and_with_room_all_goes_on():
    hold(disks.fill_the_disk(SEED))


def test_where_nothing_can_be_written_each_command_says_so_in_one_line():
    hold(disks.make_read_only(SEED))


def test_once_the_file_is_lost_nothing_is_acknowledged_and_the_worker_ends():
    hold(disks.lose_the_file(SEED, count=2))


@pytest.mark.skipif(race.OBSTACLE is not None, reason=str(race.OBSTACLE))
def test_a_checkpoint_beside_a_writer_damages_nothing():
    hold(race.force_the_race(SEED))


# ---- other versions


def fixtures():
    """Those of the releases so far, and one of the present state."""
    return ["present", *sorted(path.name for path in Path(__file__).with_name("fixtures").glob("schema-*.db.gz"))]


def unpack(name, path):
    if name == "present":
        fixture.write(path)
    else:
        path.write_bytes(gzip.decompress(Path(__file__).with_name("fixtures").joinpath(name).read_bytes()))


@pytest.mark.parametrize("name", fixtures())
def test_a_database_of_each_version_is_whole_and_its_jobs_go_on(tmp_path, name):
    path = tmp_path / "jobs.db"
    unpack(name, path)
    connection = Connection(path)
    assert connection.read(checking.faults) == []
    connection.close()
    with SyncClient(path, workers=1, runner="own") as client:
        assert [client.handle(number).result(timeout=20) for number in (1, 4, 8)] == [42, 2, 10]
        assert [client.handle(number).status() for number in (2, 5, 6)] == ["failed", "cancelled", "expired"]


@pytest.mark.parametrize(
    ("version", "error", "code"), [(SCHEMA_VERSION + 1, SchemaTooNew, 78), (SCHEMA_VERSION - 1, NotOurDatabase, 65)]
)
def test_a_schema_of_no_version_known_here_is_refused_and_the_file_is_untouched(tmp_path, version, error, code):
    path = tmp_path / "apart" / "jobs.db"
    path.parent.mkdir()
    fixture.write(tmp_path / "made.db")
    fixture.set_version(tmp_path / "made.db", version)
    shutil.copy(tmp_path / "made.db", path)
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(error, match=f"has schema {version}"):
        Connection(path)
    for words in (["status"], ["submit", "--", "true"], ["drain"]):
        command = [sys.executable, "-m", "fastworker_lite", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"FWL_DB": str(path)})
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) <= 2
    assert hashlib.sha256(path.read_bytes()).digest() == before
