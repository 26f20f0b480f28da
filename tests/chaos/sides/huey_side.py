"""huey with SqliteHuey and its defaults, but for two worker processes in the place of one thread.

Runs in: processes that tests.chaos.peers starts, in the venv of the others.
"""

import os
import sys

from huey import SqliteHuey
from huey.constants import EmptyData

from tests.chaos.sides import submitting

queue = SqliteHuey(filename=os.path.join(os.environ["FWL_CHAOS"], "huey.db"))
work = queue.task(name="work")(submitting.work)

if __name__ == "__main__":
    _, role, _, *given = sys.argv
    if role == "runner":
        queue.create_consumer(workers=2, worker_type="process", periodic=False).run()
    if role == "report":
        print(sum(queue.storage.peek_data(number) is not EmptyData for number in given))
    else:
        submitting.submit_without_end(given[0], lambda *args: work(*args).id)
