"""Ours: `python -m tests.chaos.sides.ours_side ROLE FOLDER ...`.

Runs in: processes that tests.chaos.peers starts.
"""

import os
import sys
import threading

from fastworker_lite import SyncClient
from tests.chaos.sides.submitting import submit_without_end, work

if __name__ == "__main__":
    _, role, folder, *given = sys.argv
    database = os.path.join(folder, "jobs.db")
    if role == "runner":
        with SyncClient(database, workers=2, runner="own"):
            threading.Event().wait()
    client = SyncClient(database, runner="never")
    if role == "report":
        print(sum(client.handle(number).status() == "failed" for number in given))
    else:
        submit_without_end(given[0], lambda *args: client.submit(work, *args).id)
