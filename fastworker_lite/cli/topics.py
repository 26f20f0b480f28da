"""What `fwl help` and the manual say of topics that belong to no single command.

Runs in: the command line.
"""

from __future__ import annotations

TOPICS = {
    "exit-codes": """
Exit codes

  0    done, also where there was nothing to do
  1    it failed for at least one of the jobs named, or a job waited for failed
  2    the command was not written as it must be
  3    no such job, queue or schedule
  4    refused: wrong state, conflict, or a limit
  65   the file is not a database of ours, or is damaged
  69   a worker is needed, and none is running
  70   a fault in fwl itself; the details are in a file that it names
  74   the database cannot be read or written
  75   the database is busy: try again
  78   the settings are wrong, or the database is of a newer version
  130  interrupted by Ctrl-C

fwl run, fwl submit --wait, fwl wait --exit-code and fwl logs --exit-code end
with the code of their job, and else with

  124  it took longer than it may
  125  trouble of fwl's own, usage included
  126  the command was found but cannot be run
  127  the command was not found
  128+N  signal N ended it
""",
    "environment": """
Environment

What fwl reads; options go before it:

  FWL_DB            the database
  FWL_CONFIG        the settings, instead of the nearest fastworker.toml
  FWL_JSON=1        as --json
  FWL_QUIET=1       as --quiet
  FWL_VERBOSE=1     as --verbose
  FWL_NO_INPUT=1    as --no-input
  FWL_DEBUG=1       as --debug
  FWL_COLOR         as --color: auto, always or never
  NO_COLOR, FWL_NO_COLOR, FORCE_COLOR, CLICOLOR_FORCE
                    whether there are colours where --color does not say it
  COLUMNS           how wide lists are on a terminal
  XDG_STATE_HOME    where the database is that nobody named (~/.local/state)

What a job finds:

  FWL_JOB_ID, FWL_ATTEMPT, FWL_QUEUE, FWL_DB
                    which job it is, which try of it, and where it is kept
  FWL_SCHEDULED_FOR the tick that it is for, where a schedule made it
""",
    "selectors": """
Naming jobs

  45         one job
  40-45      a range
  @last      the newest job
  @active    the jobs that have not ended
  @failed    those in this state; so @queued, @scheduled, @blocked, @running,
             @succeeded, @cancelled, @expired
  backup     the newest job of this name
  -          ids from stdin: fwl status -q --state failed | fwl retry -

Several may be named: fwl cancel 45 50-52 @running. Options leave out what they
do not describe, of these or of all jobs:

  --state STATE   in this state
  --queue NAME    of this queue
  --name GLOB     called so: 'backup-*'
  --tag K=V       with this tag
  --since DUR     submitted within this time

Naming nothing never means everything; --all does.
""",
    "time": """
Times and durations

A duration has a unit: 90s, 5m, 1h30m, 2d. A bare number is refused.

A time is of the day (03:00, the next one), or of a date (2026-11-24 03:00).
It is local, unless --tz names a zone (--tz Europe/Berlin) or it has an offset
(2026-11-24T03:00+01:00). One that is over is refused, unless --past-ok is
given; one that does not exist, because clocks are put forward then, is refused
too.

Lists show local time. JSON has UTC (2026-11-24T02:00:00.000Z), and durations
in seconds, in keys that end with _s.
""",
    "json": """
JSON

With --json, stdout is one JSON document, also when something fails; what never
ends prints one document a line. "schema" says what it is: fwl.jobs/1. Keys may
be added within a version, never renamed. What is not there is null.

  fwl status --json | jq -r '.jobs[] | select(.state == "failed") | .id'

An error is

  {"schema":"fwl.error/1",
   "error":{"code":"not_found","message":"...","hint":null,"exit_code":3}}

on one line. Ids alone come with -q, and a list for other programs with --tsv:
one record a line, nothing cut.
""",
}
