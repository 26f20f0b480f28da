"""Figures under faults, on this machine: `python -m tests.chaos`. Prints a line for each fault, and what must be 0.

Runs in: the testing process.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time

from tests.chaos import damage, disks, faults, mutations, peers, powercuts, pressures, race

#: Name, function, and what makes it longer.
FAULTS = {
    "R01": (faults.kill_everything_repeatedly, {"seconds": 300}),
    "R02": (powercuts.cut_the_power, {"images": 1000, "served": 20, "seconds": 8.0}),
    "R03": (faults.kill_submitters, {"count": 50}),
    "R04": (faults.kill_at_named_places, {"rounds": 5}),
    "R05": (faults.kill_workers_mid_task, {"jobs": 300}),
    "R06": (faults.kill_the_runner, {"rounds": 10}),
    "R07": (faults.stop_a_worker, {}),
    "R08": (faults.stop_the_leader, {}),
    "R09": (faults.fail_over, {"rounds": 20}),
    "R10": (faults.delete_the_gate_and_a_lease, {}),
    "R11": (faults.reuse_a_pid, {}),
    "R20": (disks.fail_calls, {"calls": range(1, 151)}),
    "R21": (disks.fill_the_disk, {}),
    "R23": (disks.make_read_only, {}),
    "R24": (disks.lose_the_file, {"count": len(disks.LOSSES)}),
    "R26": (damage.damage_files, {"count": 300}),
    "R28": (race.force_the_race, {"rounds": 10}),
    "R33": (pressures.step_the_clock, {"steps": (3600.0, -3600.0, 315_360_000.0, -1.7e9)}),
    "R35": (pressures.stop_in_good_order, {}),
    "R36": (pressures.send_signals_in_any_order, {"count": 20}),
    "R40": (pressures.write_from_many, {"seconds": 20.0}),
    "R43": (pressures.run_out_of_descriptors, {"seconds": 10.0}),
    "R50i": (faults.fork_and_leave, {}),
}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, help="for how long everything is killed repeatedly (20, with --soak 300)"
    )
    parser.add_argument("--seed", type=int, help="to have the same faults again")
    parser.add_argument("--soak", action="store_true", help="the long form of each")
    parser.add_argument("--only", action="append", metavar="NAME", help="such as R01; may be given more than once")
    parser.add_argument("--mutations", action="store_true", help="break the package in 14 ways: each must be noticed")
    parser.add_argument("--peers", action="store_true", help="the same kills for huey and potatoq, side by side")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if given.mutations:
        return 0 if mutations.show() else 1
    seed = given.seed if given.seed is not None else random.randrange(10**6)
    if given.peers:
        return 0 if peers.show(seed, given.seconds or 20) else 1
    print(f"seed {seed}", flush=True)
    is_good = True
    for name, (function, longer) in FAULTS.items():
        if given.only and name not in given.only:
            continue
        began = time.monotonic()
        options = longer if given.soak else {}
        if name == "R01" and given.seconds is not None:
            options = {"seconds": given.seconds}
        for one in function(seed, **options):
            print(f"{one.name}  {one.sentence}", flush=True)
        print(f"     {one.columns}  ({time.monotonic() - began:.0f} s)", flush=True)
        for line in one.details[:20]:
            print(f"       {line}")
        is_good = is_good and one.is_good
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
