"""What is promised under faults, tried: `python -m tests.chaos` prints a line of figures for each fault.

      nemesis ──kill -9, SIGSTOP, clock, disk──▶ runner, workers, submitters, listener   (actors.py, tasks.py)
                                                     │ each appends what it does and sees
                                                     ▼
                                              ledger, seen (plain files)      jobs.db (with a table of every state change)
                                                     └──────────── checker ───────────┘

Every process reads start/sitecustomize.py at its start: it has each of its connections watched (watching.py), can have its
clock put forward and back (clock.py), has its calls of the database fail (failing.py), and kills it at a named point
(failpoints.py). The package itself knows nothing of it.

The disk: recorder.c writes down what a run does to its files, recording.py builds the disk as a power cut may leave it, and
powercuts.py looks at it. disks.py fills it, makes it read-only and takes the file away; damage.py flips bits.

`python -m tests.chaos --mutations` breaks the package in many ways, each of which must be noticed; `--peers` kills two others
in the same way and shows what becomes of their jobs.
"""
