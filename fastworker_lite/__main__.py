"""`python -m fastworker_lite` is `fwl`.

Runs in: the command line.
"""

from __future__ import annotations

from .cli.main import main

if __name__ == "__main__":  # a worker that is spawned imports this module again
    main()
