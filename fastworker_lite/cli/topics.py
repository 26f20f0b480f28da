"""What `fwl help` and the manual say of topics that belong to no single command.

Runs in: the command line.
"""

from __future__ import annotations

TOPICS = {
    "hooks": """
Being told how jobs end

Commands that are run when jobs end stand in fastworker.toml (there is none yet?
fwl init):

  [hooks]
  on_failure = ["notify-send", "a job failed"]
  on_success = ["sh", "-c", "echo $FWL_JOB_ID >> done.txt"]
  on_recovered = ["notify-send", "all is well again"]
  desktop = true                        # a notice for each failure
  ping = "https://hc-ping.com/UUID"     # /start, then /0 or its exit code

A command is a list of words. It finds the job in FWL_JOB_ID, FWL_JOB_NAME,
FWL_JOB_STATE, FWL_JOB_REASON and FWL_JOB_LOG, and as JSON on its stdin; what
becomes of it changes nothing for the job. Whoever runs the job runs it, fwl run
too; a worker that runs already reads the file again on HUP (pid: fwl workers).

  fwl config check      whether all of it is right
  fwl notify test       run each of them now, with a job that never was

Of a single run, fwl run --ping URL tells how it ended, and what fwl run
--quiet-unless-failed prints is mailed by cron only after a failure.

Programs are told over a socket, and what they miss waits for them:

  fwl listen                             print each end as a line of JSON
  fwl listen --name audit                and miss none while it is not there
  fwl listeners add app unix:///run/app.sock
                                         tell whoever listens there
  fwl submit --notify unix:///run/app.sock -- make
                                         of this job alone
  fwl events -f                          all that happens to jobs
""",
    "locks": """
Locks and limits

  fwl submit --lock backup -- backup.sh
                        of the jobs with this lock, run one at a time
  fwl run --lock backup --skip-if-running -- backup.sh
                        and add none while another has it or waits for it
  fwl submit --unique thumbs -- thumbs.sh
                        add none while one with this key waits or runs
  fwl submit --concurrency 2 --rate 100/h -- fetch.sh
                        so many of a program at a time, so many begun in a span
  fwl queue set io --workers 2 --rate 10/m
                        the same for all jobs of a queue

A lock is of the database: jobs of other databases do not see it. It is free
again when its job has ended, however it did, also when it was killed.

  fwl why 45            what a job waits for
  fwl status --state blocked
                        all that wait for something

In fastworker.toml, a schedule has lock = "backup" and overlap = "skip", a
queue its limits: io = { workers = 2, rate = "10/m" } in [queue].
""",
    "schedules": """
Jobs by the clock

A schedule is a table of fastworker.toml (there is none yet? fwl init). Add one
to make it, take it away to end it:

  [cron.nightly]
  schedule = "30 2 * * *"               # or "@daily", or every = "15m"
  timezone = "Europe/Berlin"            # else the machine's
  command = ["backup.sh", "--all"]      # or shell = "backup.sh | gzip > x.gz"
  cwd = "~"
  timeout = "2h"                        # any option of a job may stand here
  overlap = "skip"                      # while the last has not ended
  catch_up = "latest"                   # after nobody was there; none, all

A command finds PATH=/usr/local/bin:/usr/bin:/bin, and what env and env_file
say, not your shell's. In Python: @task(cron="..."), or client.schedule(...).

  fwl cron check        whether all of it is right
  fwl cron list         when each is due, and how its last job ended
  fwl cron run nightly  now
  fwl cron pause nightly, fwl cron resume nightly
  crontab -l | fwl cron import >> fastworker.toml

Jobs are made while fwl worker runs (always: fwl service install), and by each
fwl drain. A worker that was there before reads the file again on HUP.
""",
    "settings": """
Settings

They stand in fastworker.toml, which is looked for from the current folder
upwards, to the root of a checkout or your home folder; or in pyproject.toml, in
[tool.fastworker]. --config FILE and FWL_CONFIG name another one.

  fwl init                      write one with comments, here
  fwl config show               every setting, with its value
  fwl config show hooks         those of one table, or one of them
  fwl config show --sources     and where each comes from
  fwl config check              what is wrong with the file
  fwl config path               which file applies

A setting is changed in the file, with an editor. A worker that runs takes over
[cron], [job], [queue], [listener], [hooks] and [keep] on HUP (its pid: fwl
workers), the rest when it is started again. Limits of queues can be changed
without the file: fwl queue set io --workers 2.
""",
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

#: Other words under which a topic is looked for.
_ALSO = {
    "hooks": "hook notification notifications notifying callback callbacks listener webhook webhooks desktop alert alerts"
    " mail email ping pings healthchecks on_failure on_success on-failure on-success",
    "locks": "lock locking limit limits concurrency rate rates mutex unique overlap",
    "schedules": "schedule scheduling crontab timer timers",
    "settings": "setting configuration configure toml fastworker.toml pyproject.toml pyproject",
    "exit-codes": "exit exit-code exit-status status-codes codes",
    "environment": "env variables environment-variables",
    "selectors": "selector ids id names filters",
    "time": "times duration durations dates timezone timezones",
    "json": "schema schemas tsv output-formats",
}


def find(word: str) -> str | None:
    """The topic that is called so, or looked for by this word."""
    name = word.lower().replace(" ", "-")
    return name if name in TOPICS else next((topic for topic, words in _ALSO.items() if name in words.split()), None)
