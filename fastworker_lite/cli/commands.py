"""The commands of `fwl`: where each is, and where `fwl -h` lists it.

Only the command that is called is imported: `parsing` does that. A new command is a line here.

Runs in: the command line.
"""

from __future__ import annotations

from typing import NamedTuple

JOBS, QUEUES, RUNNING, SCHEDULES, SET_UP = "Jobs", "Queues", "Running", "Schedules", "Set-up"


class Entry(NamedTuple):
    """One command, or the group that those are in whose names begin with its own."""

    function: str
    #: As `module:function`, in this folder.
    heading: str = ""
    #: Under which help lists it.
    is_hidden: bool = False
    is_before_words: bool = False
    #: Whether another program's words follow, whose options are not ours.


COMMANDS = {
    "submit": Entry("submitting:submit", JOBS, is_before_words=True),
    "run": Entry("running:run", JOBS, is_before_words=True),
    "status": Entry("listing:status", JOBS),
    "ls": Entry("listing:status", JOBS, is_hidden=True),
    "show": Entry("details:show", JOBS),
    "logs": Entry("reading:logs", JOBS),
    "why": Entry("explaining:why", JOBS),
    "wait": Entry("waiting:wait", JOBS),
    "cancel": Entry("cancelling:cancel", JOBS),
    "retry": Entry("retrying:retry", JOBS),
    "clone": Entry("cloning:clone", JOBS),
    "edit": Entry("editing:edit", JOBS),
    "rm": Entry("removing:rm", JOBS),
    "hold": Entry("holding:hold", JOBS),
    "release": Entry("holding:release", JOBS),
    "pause": Entry("holding:pause", JOBS),
    "resume": Entry("holding:resume", JOBS),
    "prune": Entry("pruning:prune", JOBS),
    "queue": Entry("queueing:list_queues", QUEUES),
    "queue list": Entry("queueing:list_"),
    "queue set": Entry("queueing:set_"),
    "queue add": Entry("queueing:set_", is_hidden=True),
    "queue pause": Entry("queueing:pause"),
    "queue resume": Entry("queueing:resume"),
    "queue remove": Entry("queueing:remove"),
    "worker": Entry("serving:worker", RUNNING),
    "top": Entry("top:top", RUNNING),
    "stop": Entry("stopping:stop", RUNNING),
    "drain": Entry("draining:drain", RUNNING),
    "workers": Entry("workers:workers", RUNNING),
    "health": Entry("health:health", RUNNING),
    "service": Entry("service:group", RUNNING),
    "service install": Entry("service:install"),
    "service uninstall": Entry("service:uninstall"),
    "service status": Entry("service:status"),
    "cron": Entry("cron:without_command", SCHEDULES),
    "cron list": Entry("cron:list_schedules"),
    "cron next": Entry("cron_next:next_ticks"),
    "cron check": Entry("cron_check:check"),
    "cron import": Entry("cron_import:import_crontab"),
    "cron history": Entry("cron_history:history"),
    "cron run": Entry("cron_acting:run"),
    "cron pause": Entry("cron_acting:pause"),
    "cron resume": Entry("cron_acting:resume"),
    "init": Entry("init:init", SET_UP),
    "config": Entry("configuring:group", SET_UP),
    "config show": Entry("configuring:show"),
    "config check": Entry("configuring:check"),
    "config path": Entry("configuring:path"),
    "db": Entry("db:group", SET_UP),
    "db path": Entry("db:path"),
    "db check": Entry("db:check"),
    "db backup": Entry("db:backup"),
    "db migrate": Entry("db:migrate"),
    "doctor": Entry("doctor:doctor", SET_UP),
    "listeners": Entry("telling:list_listeners", SET_UP),
    "listeners add": Entry("telling:add"),
    "listeners remove": Entry("telling:remove"),
    "listeners pause": Entry("telling:pause"),
    "listeners resume": Entry("telling:resume"),
    "listeners redeliver": Entry("telling:redeliver"),
    "listen": Entry("telling:listen", SET_UP),
    "events": Entry("telling:events", SET_UP),
    "notify": Entry("notifying:group", SET_UP),
    "notify test": Entry("notifying:test"),
    "version": Entry("details:version", SET_UP),
}


def names_in(group: str) -> list[str]:
    """The names of the commands in this group, "" for those that follow `fwl`."""
    prefix = f"{group} " if group else ""
    return [
        name.removeprefix(prefix) for name in COMMANDS if name.startswith(prefix) and " " not in name[len(prefix) :]
    ]
