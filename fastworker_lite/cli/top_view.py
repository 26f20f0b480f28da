"""How `fwl top` looks: the lines of the screen, for any size of it.

Every text goes through `_plain`, and becomes a `Text`: nothing in it is read as markup.

Runs in: the command line.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ..job import Progress, State
from ..schedule import Schedule
from . import render
from .records import Record, seconds_taken, sentence
from .top_figures import COLUMN, WINDOW, Figures, History, Worker

KEYS = "q quit  j/k select  l log  c cancel  r retry  p pause queue  ? help"
HELP = """\
up k, down j   select a job, a queue or a failure
l              show the log of the selected job (q comes back)
c              cancel it: a job that runs is ended
r              run a job again that has failed
p              pause its queue, or resume it
q, Ctrl-C      quit

RUNNING    the jobs that run, how far they say they are, what they printed last
QUEUES     what waits; OF LATE is how much did, a column for {column:.0f} seconds
FAILURES   the last jobs that failed; all: fwl status -a --state failed
WORKERS    what they take themselves, without the commands that they run
SCHEDULES  what makes jobs by the clock, the next one first

The figures on top are of the jobs that ended in the last {minutes:g} minutes: how
many, how long they waited from when they could begin, and how long they ran.
Half of them took p50 or less, 95 of 100 took p95 or less.

Any key goes back."""

#: Columns of a window below which it is narrow.
_NARROW = 60
#: Characters of a text that are looked at: a command may be a megabyte.
_LONGEST = 1_000
#: The rows of each section, its title included, below which it is left out.
_LEAST = 2


class Target(NamedTuple):
    """What a line stands for, and keys act upon."""

    job: int | None
    queue: str


class Column(NamedTuple):
    title: str
    width: int
    is_spare: bool = False
    #: Left out in a narrow window.


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A list; the title of its first column is its own."""

    style: str
    columns: Sequence[Column]
    #: The last one, of width 0, takes what is left of the line.
    rows: Sequence[Sequence[str]]
    targets: Sequence[Target] = ()
    #: One for each row, where rows can be selected.


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a person has made of the view."""

    selected: Target | None = None
    answer: str | None = None
    #: To the last key.
    is_help: bool = False


def targets(seen: Figures) -> list[Target]:
    """What can be selected, from top to bottom."""
    return _job_targets(seen.running) + _queue_targets(seen) + _job_targets(seen.failures)


def _job_targets(records: Sequence[Record]) -> list[Target]:
    return [Target(one.job.id, one.job.queue) for one in records]


def _queue_targets(seen: Figures) -> list[Target]:
    return [Target(None, row.name) for row in seen.queues]


def lines(
    seen: Figures, history: Mapping[str, History], look: Look, place: str, size: tuple[int, int], clock: str
) -> list[Text]:
    """The screen: exactly as many lines as it has, none longer than it is wide."""
    width, height = size
    if look.is_help:
        head = [_line(f"fwl top - {place}", width, "bold")]
        body = [_line(line, width) for line in HELP.format(column=COLUMN, minutes=WINDOW / 60).splitlines()]
    else:
        head = _head(seen, place, clock, width)
        body = _body(seen, history, look.selected, (width, height - len(head) - 1))
    foot = _line(look.answer or KEYS, width, "bold reverse" if look.answer else "reverse")
    above = [*head, *body][: max(0, height - 1)]
    return [*above, *[Text()] * (height - 1 - len(above)), foot]


def _body(seen: Figures, history: Mapping[str, History], selected: Target | None, size: tuple[int, int]) -> list[Text]:
    width, room = size
    sections = [
        _running(seen, width),
        _queues(seen, history, width),
        _failures(seen, width),
        _workers(seen),
        _schedules(seen),
    ]
    shares = _share(room, [1 + len(one.rows) for one in sections])
    is_airy = room - sum(shares) >= len(sections)
    found: list[Text] = []
    for section, share in zip(sections, shares, strict=True):
        found += [Text()] * is_airy + _section_lines(section, share, selected, width)
    return found


def _share(room: int, wanted: Sequence[int]) -> list[int]:
    """How many lines each section gets: the first ones at least something, then all in turn."""
    given = []
    for lines in wanted:
        least = min(lines, _LEAST)
        given.append(least if least <= room else 0)
        room -= given[-1]
    while room > 0 and any(0 < has < lines for has, lines in zip(given, wanted, strict=True)):
        for number, lines in enumerate(wanted):
            if 0 < given[number] < lines and room > 0:
                given[number] += 1
                room -= 1
    return given


# ---- what is in it


def _head(seen: Figures, place: str, clock: str, width: int) -> list[Text]:
    counts = [
        f"{seen.counts[state]} {state}" for state in (State.RUNNING, State.QUEUED, State.SCHEDULED, State.BLOCKED)
    ]
    first = f"{_pad(f'fwl top - {place}', max(0, width - len(clock) - 1))} {clock}"
    pace = seen.pace
    failed = f" ({_rate(pace.failed_per_second)} failed)" if pace.failed_per_second else ""
    figures = [f"{_rate(pace.per_second)} ended{failed}", f"wait {_pair(pace.wait)}", f"run {_pair(pace.run)}"]
    return [
        _line(first, width, "bold"),
        _line("  ".join([", ".join(counts), *([] if seen.is_served else ["no worker is running: fwl worker"])]), width),
        _line(f"last {WINDOW / 60:g} min: {'  '.join(figures)}  (p50/p95)", width),
    ]


def _rate(per_second: float) -> str:
    if 0 < per_second < 1:
        return f"{per_second * 60:.2g}/min"
    return f"{per_second:.0f}/s" if per_second >= 10 or not per_second else f"{per_second:.1f}/s"


def _pair(values: tuple[float | None, float | None]) -> str:
    return "/".join(_short(value) for value in values)


def _short(seconds: float | None) -> str:
    return f"{seconds * 1000:.0f}ms" if seconds is not None and seconds < 1 else render.duration(seconds)


def _running(seen: Figures, width: int) -> Section:
    rows = [
        [
            str(one.job.id),
            render.duration(seconds_taken(one.job, seen.at)),
            _bar(one.progress),
            one.job.queue,
            one.job.name or one.text,
            _remarks(one) + seen.last_lines.get(one.job.id, ""),
        ]
        for one in seen.running
    ]
    columns = [
        Column(f"RUNNING {seen.counts[State.RUNNING]}", 11), Column("TIME", 6, is_spare=True), Column("PROGRESS", 13),
        Column("QUEUE", 8, is_spare=True), Column("NAME", max(12, (width - 45) // 2)), Column("LAST LINE", 0),
    ]  # fmt: skip
    return Section(style="green", columns=columns, rows=rows, targets=_job_targets(seen.running))


def _remarks(one: Record) -> str:
    remarks = [one.progress.note] if one.progress is not None and one.progress.note else []
    remarks += ["being cancelled"] if one.job.cancel is not None else []
    return "".join(f"({remark}) " for remark in remarks)


def _bar(progress: Progress | None) -> str:
    """`████░░░░  50%`, or how much is done where nobody knows of how much."""
    if progress is None:
        return "-"
    if not progress.total or progress.total < 0 or not math.isfinite(progress.done / progress.total):
        return f"{progress.done:.6g}"
    part = min(max(progress.done / progress.total, 0.0), 1.0)
    full, empty = ("█", "░") if _is_unicode() else ("#", ".")
    done = int(part * 8)
    return full * done + empty * (8 - done) + f"{int(part * 100):4}%"


def _queues(seen: Figures, history: Mapping[str, History], width: int) -> Section:
    rows = [
        [
            row.name,
            "paused" if row.paused else "open",
            str(row.queued),
            str(row.running),
            _sparkline(history.get(row.name), max(0, width - 46)),
        ]
        for row in seen.queues
    ]
    columns = [
        Column(f"QUEUES {len(rows)}", 16), Column("STATE", 6), Column("QUEUED", 8), Column("RUNNING", 8),
        Column("OF LATE", 0),
    ]  # fmt: skip
    return Section(style="cyan", columns=columns, rows=rows, targets=_queue_targets(seen))


def _sparkline(history: History | None, width: int) -> str:
    depths = list(history.depths)[-width:] if history is not None and width else []
    marks = "▁▂▃▄▅▆▇█" if _is_unicode() else "_.-=+*%#"
    most = max([1, *depths])
    return "".join(marks[math.ceil(depth * (len(marks) - 1) / most)] for depth in depths)


def _failures(seen: Figures, width: int) -> Section:
    rows = [
        [
            str(one.job.id),
            f"{render.age(seen.at - (one.job.finished_at or seen.at))} ago",
            one.job.queue,
            one.job.name or one.text,
            sentence(one.job).removeprefix("failed: "),
        ]
        for one in seen.failures
    ]
    columns = [
        Column(f"FAILURES {len(rows)}", 11), Column("ENDED", 8, is_spare=True), Column("QUEUE", 8, is_spare=True),
        Column("NAME", width // 4), Column("REASON", 0),
    ]  # fmt: skip
    return Section(style="red", columns=columns, rows=rows, targets=_job_targets(seen.failures))


def _workers(seen: Figures) -> Section:
    busiest = sorted(seen.workers, key=lambda one: (one.job is None, -(one.usage.cpu or 0.0)))
    columns = [
        Column(f"WORKERS {len(busiest)}", 11), Column("CPU", 6), Column("RSS", 9), Column("RUNS", 11), Column("JOB", 0),
    ]  # fmt: skip
    return Section(style="yellow", columns=columns, rows=[_worker_row(one) for one in busiest])


def _worker_row(one: Worker) -> list[str]:
    cpu = "-" if one.usage.cpu is None else f"{one.usage.cpu:.0f}%"
    memory = "-" if one.usage.memory is None else render.size(one.usage.memory)
    return [str(one.pid), cpu, memory, one.role, "idle" if one.job is None else str(one.job)]


def _schedules(seen: Figures) -> Section:
    rows = []
    for one in seen.schedules:
        schedule = Schedule.from_json(one.spec)
        is_coming = one.next_at is not None and not one.paused
        when = "-" if not is_coming else time.strftime("%d %b %H:%M:%S", time.localtime(one.next_at))
        within = "paused" if one.paused else "over" if one.next_at is None else f"in {_short(one.next_at - seen.at)}"
        rows.append([one.name, when, within, schedule.text])
    columns = [Column(f"SCHEDULES {len(rows)}", 22), Column("NEXT", 15), Column("IN", 10), Column("SCHEDULE", 0)]
    return Section(style="magenta", columns=columns, rows=rows)


# ---- lines


def _section_lines(section: Section, room: int, selected: Target | None, width: int) -> list[Text]:
    """The titles, and the rows around the selected one."""
    if not room:
        return []
    names = [column.title for column in section.columns] if section.rows else [section.columns[0].title]
    found = [_line("  " + _cells(section, names, width), width, f"bold {section.style}")]
    number = section.targets.index(selected) if selected in section.targets else 0
    first = min(max(0, number - (room - 2)), max(0, len(section.rows) - (room - 1)))
    for place, row in enumerate(section.rows[first : first + room - 1], first):
        is_selected = bool(section.targets) and section.targets[place] == selected
        mark, style = ("> ", "reverse") if is_selected else ("  ", "")
        found.append(_line(mark + _cells(section, row, width), width, style))
    return found


def _cells(section: Section, row: Sequence[str], width: int) -> str:
    cells = [
        (cell, column.width)
        for cell, column in zip(row, section.columns, strict=False)
        if width >= _NARROW or not column.is_spare
    ]
    return "".join(f"{_pad(cell, size)} " if size else _plain(cell) for cell, size in cells)


def _pad(text: str, size: int) -> str:
    """*text* in exactly so many cells, of which a letter may take two."""
    plain = _plain(text)
    if cell_len(plain) <= size:
        return set_cell_size(plain, size)
    dots = "…" if _is_unicode() else "."
    return set_cell_size(plain, size - 1) + dots if size else ""


def _line(text: str, width: int, style: str = "") -> Text:
    return Text(_pad(text, width), style=style, no_wrap=True, overflow="crop")


def _plain(text: str) -> str:
    """What a terminal obeys is escaped, and so is what its encoding lacks."""
    found = render.clean(text[:_LONGEST])
    return found if _is_unicode() else found.encode("ascii", "backslashreplace").decode()


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
