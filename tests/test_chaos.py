"""What is promised under faults, in short: real kills of real processes. The long form is `python -m tests.chaos --soak`."""

from __future__ import annotations

import os

import pytest

from fastworker_lite import SyncClient
from fastworker_lite.store.connection import Connection
from tests.chaos import faults, ledger, pressures
from tests.chaos.failpoints import PLACES
from tests.chaos.mutations import MUTATIONS, broken

SEED = int(os.environ.get("FWL_SEED", "0")) or int.from_bytes(os.urandom(3))


def hold(figures):
    """Every sentence may be published."""
    for one in figures:
        print(f"seed {SEED}: {one.name} {one.sentence}")
    assert all(one.is_good for one in figures), f"{figures[0].columns}\n" + "\n".join(figures[0].details)


@pytest.mark.timeout(120)
def test_nothing_is_lost_nor_doubled_when_everything_is_killed_repeatedly():
    hold(faults.kill_everything_repeatedly(SEED, seconds=8, workers=2, has_long="no"))


def test_what_a_killed_submitter_has_acknowledged_is_there():
    hold(faults.kill_submitters(SEED, count=5))


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_at_a_named_place_costs_nothing(place):
    hold(faults.kill_at_named_places(SEED, rounds=2, places=[place]))


def test_a_worker_killed_as_it_starts_a_command_leaves_no_second_execution_beside_it():
    hold(faults.kill_a_worker_as_it_starts_a_command(SEED))


def test_a_killed_worker_disturbs_no_other_ones_jobs():
    hold(faults.kill_workers_mid_task(SEED, jobs=60))


def test_no_worker_outlives_its_runner():
    hold(faults.kill_the_runner(SEED, rounds=1))


def test_a_stopped_worker_has_no_second_one_beside_it():
    hold(faults.stop_a_worker(SEED, seconds=3.5))


def test_a_stopped_leader_is_not_replaced():
    hold(faults.stop_the_leader(SEED))


def test_a_killed_leader_is_replaced():
    hold(faults.fail_over(SEED, rounds=2, within=5.0))  # a second, where nothing else has the machine busy


def test_nothing_is_acknowledged_once_the_gate_is_deleted():
    hold(faults.delete_the_gate_and_a_lease(SEED))


def test_a_process_with_a_dead_workers_number_is_left_alone():
    hold(faults.reuse_a_pid(SEED))


def test_a_child_that_a_job_forked_does_not_keep_its_workers_lease():
    hold(faults.fork_and_leave(SEED))


def test_a_timeout_is_as_long_as_it_is_whatever_the_clock_says():
    hold(pressures.step_the_clock(SEED))


def test_a_runner_that_is_told_to_end_leaves_nothing_but_the_database():
    hold(pressures.stop_in_good_order(SEED))


def test_a_worker_ends_by_whatever_it_is_sent_whenever():
    hold(pressures.send_signals_in_any_order(SEED))


def test_a_runner_that_can_open_no_more_files_goes_on_and_recovers():
    hold(pressures.run_out_of_descriptors(SEED, seconds=1.0))


def change_payloads(sql):
    sql.execute("UPDATE job SET payload = CAST(payload || X'00' AS BLOB)")


def test_a_call_whose_bytes_were_changed_is_not_run(database):
    with SyncClient(database, runner="never") as client:
        handle = client.submit(abs, -5)
        client._call(Connection.write, change_payloads)
        with SyncClient(database, workers=1, runner="own"):
            assert handle.wait(timeout=20)
        assert handle.status() == "failed"
        assert "checksum" in handle._job().error


def test_an_execution_beside_another_one_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv(ledger.FOLDER, str(tmp_path))
    (tmp_path / "alive").mkdir()
    with ledger.execution(1, 1), ledger.execution(1, 2):
        pass
    with ledger.execution(2, 1):
        pass
    assert [line.fields for line in ledger.read(tmp_path / "ledger") if line.kind == "O"] == [("1", "2")]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_broken_variant_can_still_be_made(mutation):
    """What it is to replace is in the package as it is now."""
    with broken(mutation) as folder:
        for change in mutation.changes:
            assert change.new in (folder / change.file).read_text()
