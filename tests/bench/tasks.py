"""What the benchmark runs.

Runs in: worker processes.
"""


def noop(value=None):
    return value
