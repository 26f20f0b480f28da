"""The commands of `fwl`: where each is, and what help says of it in a line.

Only the command that is called is imported: `parsing` does that. A new command is a line here.

Runs in: the command line.
"""

from __future__ import annotations

from typing import NamedTuple

JOBS, QUEUES, RUNNING, SCHEDULES, SET_UP = "Jobs", "Queues", "Running", "Schedules", "Set-up"
#: Where `fwl -h` lists them, in this order.
HEADINGS = (JOBS, QUEUES, RUNNING, SCHEDULES, SET_UP)


class Entry(NamedTuple):
    """One command, or the group that those are in whose names begin with its own."""

    function: str
    #: As `module:function`, in this folder.
    summary: str
    heading: str = ""
    #: Of those that follow `fwl`, one of `HEADINGS`.
    is_hidden: bool = False
    is_before_words: bool = False
    #: Whether another program's words follow, whose options are not ours.


COMMANDS = {
    "submit": Entry("submitting:submit", "Queue a job and print its id", JOBS, is_before_words=True),
    "run": Entry("running:run", "Run a job now, here, with its output", JOBS, is_before_words=True),
    "status": Entry("listing:status", "List jobs", JOBS),
    "ls": Entry("listing:status", "List jobs", JOBS, is_hidden=True),
    "show": Entry("details:show", "Everything about one job", JOBS),
    "logs": Entry("reading:logs", "What jobs printed", JOBS),
    "why": Entry("explaining:why", "Why a job is not running, or how it ended", JOBS),
    "wait": Entry("waiting:wait", "Wait until jobs have ended", JOBS),
    "cancel": Entry("cancelling:cancel", "End jobs, or have them not begin", JOBS),
    "retry": Entry("retrying:retry", "Queue jobs again that have failed", JOBS),
    "clone": Entry("cloning:clone", "Submit a job anew", JOBS),
    "edit": Entry("editing:edit", "Change a job that has not begun", JOBS),
    "rm": Entry("removing:rm", "Remove jobs that have ended", JOBS),
    "hold": Entry("holding:hold", "Have jobs wait for a person", JOBS),
    "release": Entry("holding:release", "Let held jobs go on", JOBS),
    "pause": Entry("holding:pause", "Begin no more jobs of a queue", JOBS),
    "resume": Entry("holding:resume", "Begin them again", JOBS),
    "prune": Entry("pruning:prune", "Remove jobs that have ended", JOBS),
    "queue": Entry("queueing:list_queues", "List, limit and pause queues", QUEUES),
    "queue list": Entry("queueing:list_", "List the queues"),
    "queue set": Entry("queueing:set_", "Set the limits of a queue"),
    "queue add": Entry("queueing:add", "Make a queue"),
    "queue pause": Entry("queueing:pause", "Have none of its jobs begin"),
    "queue resume": Entry("queueing:resume", "Have its jobs begin again"),
    "queue remove": Entry("queueing:remove", "Remove a queue that is empty"),
    "worker": Entry("serving:worker", "Run jobs until told to stop", RUNNING),
    "top": Entry("top:top", "What happens, on the whole screen", RUNNING),
    "stop": Entry("stopping:stop", "Stop the workers of this file", RUNNING),
    "drain": Entry("draining:drain", "Run what can run now, and exit", RUNNING),
    "workers": Entry("workers:workers", "Who runs jobs, and which", RUNNING),
    "health": Entry("health:health", "One line and an exit code for monitoring", RUNNING),
    "service": Entry("service:group", "Keep a worker running, by systemd or launchd", RUNNING),
    "service install": Entry("service:install", "Install and start it"),
    "service uninstall": Entry("service:uninstall", "Stop and remove it"),
    "service status": Entry("service:status", "How it is doing"),
    "cron": Entry("cron:without_command", "Jobs by the clock", SCHEDULES),
    "cron list": Entry("cron:list_schedules", "When each is due, and how its last job ended"),
    "cron next": Entry("cron_next:next_ticks", "When the next jobs are made"),
    "cron check": Entry("cron_check:check", "Look for faults in fastworker.toml"),
    "cron import": Entry("cron_import:import_crontab", "A crontab as tables for fastworker.toml"),
    "cron export": Entry("cron_export:export", "As a crontab, or as timers of systemd"),
    "cron history": Entry("cron_history:history", "The last ticks, and what became of them"),
    "cron run": Entry("cron_acting:run", "Make a schedule's job now"),
    "cron pause": Entry("cron_acting:pause", "Have a schedule make no jobs"),
    "cron resume": Entry("cron_acting:resume", "Have it make jobs again"),
    "init": Entry("init:init", "Write a fastworker.toml with comments", SET_UP),
    "config": Entry("configuring:group", "The settings, and where they come from", SET_UP),
    "config show": Entry("configuring:show", "Every setting"),
    "config check": Entry("configuring:check", "What is wrong with the file"),
    "config path": Entry("configuring:path", "Which file applies"),
    "db": Entry("db:group", "The file that holds the jobs", SET_UP),
    "db path": Entry("db:path", "Where it is"),
    "db check": Entry("db:check", "Whether it is sound"),
    "db backup": Entry("db:backup", "Copy it while workers run"),
    "db migrate": Entry("db:migrate", "Bring it to this version"),
    "doctor": Entry("doctor:doctor", "What is wrong with the set-up, and what to type", SET_UP),
    "listeners": Entry("telling:list_listeners", "Who is told of ended jobs", SET_UP),
    "listeners add": Entry("telling:add", "Have an address told of ended jobs"),
    "listeners remove": Entry("telling:remove", "Have it told no more"),
    "listeners pause": Entry("telling:pause", "Keep what it is to be told"),
    "listeners resume": Entry("telling:resume", "Tell it what was kept"),
    "listeners redeliver": Entry("telling:redeliver", "Tell it again what was given up"),
    "listen": Entry("telling:listen", "Print the ends of jobs as they come", SET_UP),
    "events": Entry("telling:events", "What happened to jobs, from the file", SET_UP),
    "notify": Entry("notifying:group", "Try how ends are told", SET_UP),
    "notify test": Entry("notifying:test", "Tell of a job that never was"),
    "completion": Entry("completion:completion", "Print a script that completes words in a shell", SET_UP),
    "man": Entry("manual:man", "Show the manual", SET_UP),
    "help": Entry("helping:help_", "Explain a command or a topic", SET_UP),
    "version": Entry("versions:version", "Print the version, and what is in it", SET_UP),
}


def names_in(group: str) -> list[str]:
    """The names of the commands in this group, "" for those that follow `fwl`."""
    prefix = f"{group} " if group else ""
    return [
        name.removeprefix(prefix) for name in COMMANDS if name.startswith(prefix) and " " not in name[len(prefix) :]
    ]


def entries_in(group: str) -> dict[str, Entry]:
    """Those of them that are not hidden, by name."""
    found = {name: COMMANDS[f"{group} {name}".strip()] for name in names_in(group)}
    return {name: entry for name, entry in found.items() if not entry.is_hidden}
