"""Figures under faults, on this machine: `python -m tests.chaos`. Prints a line for each fault, and what must be 0.

Runs in: the testing process.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time

from tests.chaos import faults

#: Name, function, and whether it takes the seconds that are asked for.
FAULTS = {
    "R01": faults.kill_everything_repeatedly,
}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help="for how long everything is killed repeatedly (20, with --soak 300)")
    parser.add_argument("--seed", type=int, help="to have the same faults again")
    parser.add_argument("--soak", action="store_true", help="the long form of each")
    parser.add_argument("--only", action="append", metavar="NAME", help="such as R01; may be given more than once")
    parser.add_argument("--mutations", action="store_true", help="break the package in 14 ways: each must be noticed")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = given.seed if given.seed is not None else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    is_good = True
    for name, function in FAULTS.items():
        if given.only and name not in given.only:
            continue
        began = time.monotonic()
        options = {}
        if name == "R01":
            options["seconds"] = given.seconds or (300 if given.soak else 20)
        for one in function(seed, **options):
            print(f"{one.name}  {one.sentence}", flush=True)
        print(f"     {one.columns}  ({time.monotonic() - began:.0f} s)", flush=True)
        for line in one.details[:20]:
            print(f"       {line}")
        is_good = is_good and one.is_good
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
