"""potatoq on SQLite with its defaults, and two worker processes.

Runs in: processes that tests.chaos.peers starts, in the venv of the others.
"""

import os
import sys

from potatoq import AsyncResult, Potatoq

from tests.chaos.sides import submitting

app = Potatoq("chaos", broker=f"sqlite:///{os.environ['FWL_CHAOS']}/potatoq.db")
work = app.task(name="work")(submitting.work)

if __name__ == "__main__":
    _, role, _, *given = sys.argv
    if role == "runner":
        module = "tests.chaos.sides.potatoq_side:app"
        words = [sys.executable, "-m", "potatoq", "-A", module, "worker", "-c", "2", "-l", "ERROR"]
        os.execv(words[0], words)
    if role == "report":
        print(sum(AsyncResult(number, app=app).state == "FAILURE" for number in given))
    else:
        submitting.submit_without_end(given[0], lambda *args: work.delay(*args).id)
