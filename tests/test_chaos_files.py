"""What is promised when the disk fails or loses power, in short. The long form is `python -m tests.chaos --soak`."""

from __future__ import annotations

import pytest

from tests.chaos import damage, disks, powercuts
from tests.test_chaos import SEED, hold


@pytest.mark.skipif(powercuts.find_compiler() is None, reason=powercuts.NO_COMPILER)
def test_a_power_cut_loses_nothing_that_was_acknowledged_and_ends_nothing_twice():
    hold(powercuts.cut_the_power(SEED))


def test_a_call_of_the_database_that_fails_costs_nothing_whichever_it_is():
    hold(disks.fail_calls(SEED))


def test_a_damaged_file_crashes_nothing_and_nothing_that_was_changed_is_run():
    hold(damage.damage_files(SEED))


def test_without_room_nothing_is_acknowledged_and_with_room_all_goes_on():
    hold(disks.fill_the_disk(SEED))


def test_once_the_file_is_lost_nothing_is_acknowledged_and_the_worker_ends():
    hold(disks.lose_the_file(SEED, count=2))
