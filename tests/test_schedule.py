"""When schedules have their ticks. Nothing here touches a file or waits for a clock."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastworker_lite import ConfigError
from fastworker_lite.schedule import Schedule, short_duration


def moment(text, zone="UTC"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def ticks(expression, zone, day, days=1):
    """The ticks of some days, as the clock of the zone shows them."""
    schedule = Schedule.parse({"cron": expression, "timezone": zone})
    start = moment(day, zone)
    end = (datetime.fromisoformat(day) + timedelta(days=days)).replace(tzinfo=ZoneInfo(zone)).timestamp()
    found = [datetime.fromtimestamp(tick, ZoneInfo(zone)) for tick in schedule.ticks(start - 1, end - 1)]
    return [f"{one:%H:%M %z}" for one in found]


# ---- daylight saving


@pytest.mark.parametrize(
    ("expression", "zone", "day", "expected"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-29", ["03:00 +0200"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25", ["02:30 +0200"]),
        ("30 2 * * *", "America/New_York", "2026-03-08", ["03:00 -0400"]),
        ("30 1 * * *", "America/New_York", "2026-11-01", ["01:30 -0400"]),
        ("*/30 1 * * *", "America/New_York", "2026-11-01", ["01:00 -0400", "01:30 -0400", "01:00 -0500", "01:30 -0500"]),
        ("0 9 * * *", "America/New_York", "2026-03-08", ["09:00 -0400"]),
        ("0,30 2 * * *", "Europe/Berlin", "2026-03-29", ["03:00 +0200"]),
        ("0 0 * * *", "America/Santiago", "2026-09-06", ["01:00 -0300"]),
        ("*/30 0 * * *", "America/Santiago", "2026-09-06", []),
        ("30 23 * * *", "America/Santiago", "2026-04-04", ["23:30 -0300"]),
        ("*/30 2 * * *", "Australia/Lord_Howe", "2026-04-05", ["02:00 +1030", "02:30 +1030"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-04", ["02:30 +1100"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-05", ["01:45 +1100"]),
    ],
)  # fmt: skip
def test_a_day_on_which_the_clocks_change_has_these_ticks(expression, zone, day, expected):
    assert ticks(expression, zone, day) == expected


def test_an_hourly_expression_goes_on_through_a_repeated_hour():
    assert len(ticks("0 * * * *", "America/New_York", "2026-11-01")) == 25


def test_a_tick_in_the_first_pass_of_a_repeated_hour_does_not_come_again_from_the_second():
    schedule = Schedule.parse({"cron": "30 1 * * *", "timezone": "America/New_York"})
    second_pass = datetime(2026, 11, 1, 1, 10, tzinfo=ZoneInfo("America/New_York"), fold=1).timestamp()

    assert schedule.next(second_pass) == moment("2026-11-02 01:30", "America/New_York")


def test_a_tick_in_a_skipped_hour_says_for_which_time_it_stands():
    schedule = Schedule.parse({"cron": "30 2 * * *", "timezone": "Europe/Berlin"})

    skipped = schedule.skipped_time(moment("2026-03-29 03:00", "Europe/Berlin"))

    assert skipped == datetime(2026, 3, 29, 2, 30)
    assert schedule.skipped_time(moment("2026-03-30 02:30", "Europe/Berlin")) is None


# ---- against a scan of every minute

ZONES = [
    "Africa/Cairo", "Africa/Casablanca", "Africa/Johannesburg", "America/Anchorage", "America/Argentina/Buenos_Aires",
    "America/Asuncion", "America/Chicago", "America/Halifax", "America/Havana", "America/Los_Angeles",
    "America/Mexico_City", "America/New_York", "America/Nuuk", "America/Santiago", "America/Sao_Paulo",
    "America/Scoresbysund", "America/St_Johns", "Antarctica/Troll", "Asia/Beirut", "Asia/Gaza", "Asia/Jerusalem",
    "Asia/Kathmandu", "Asia/Kolkata", "Asia/Tehran", "Asia/Tokyo", "Atlantic/Azores", "Australia/Adelaide",
    "Australia/Lord_Howe", "Australia/Sydney", "Europe/Berlin", "Europe/Chisinau", "Europe/Dublin", "Europe/London",
    "Europe/Moscow", "Pacific/Apia", "Pacific/Auckland", "Pacific/Chatham", "Pacific/Easter", "Pacific/Norfolk", "UTC",
]  # fmt: skip
#: Each with what a scan looks for: minutes and hours. These for all zones,
EXPRESSIONS = {"30 2 * * *": ({30}, {2}), "*/30 1 * * *": ({0, 30}, {1})}
#: and these for the zones with changes at midnight, of half an hour, of two hours, or in the other half of the year.
MORE = {"15 1,3 * * *": ({15}, {1, 3}), "0 0 * * *": ({0}, {0}), "*/30 0,2 * * *": ({0, 30}, {0, 2})}
STRANGE = {"America/Havana", "America/Santiago", "Antarctica/Troll", "Asia/Beirut", "Atlantic/Azores",
           "Australia/Lord_Howe", "Pacific/Chatham"}  # fmt: skip
FIRST, LAST = datetime(2026, 1, 1), datetime(2036, 1, 1)
QUARTER = 900


def quarters(zone):
    """Every quarter of an hour from FIRST to LAST: its start, and what the clock shows then. Offsets change only there."""
    own = ZoneInfo(zone)
    start, end = int(FIRST.replace(tzinfo=UTC).timestamp()), int(LAST.replace(tzinfo=UTC).timestamp())
    for instant in range(start, end, QUARTER):
        shown = datetime.fromtimestamp(instant, own)
        yield instant, shown.hour, shown.minute


def scan_shown(scanned, minutes, hours):
    """The minutes at which the clock shows one of these times."""
    return [
        instant + 60 * ahead
        for instant, hour, minute in scanned
        if hour in hours
        for ahead in range(15)
        if minute + ahead in minutes
    ]


def scan_fixed(zone, minutes, hours):
    """For each day and time, the first minute at which the clock shows it or, where it never does, a later one."""
    own, found, day = ZoneInfo(zone), set(), FIRST - timedelta(days=1)
    while day < LAST + timedelta(days=1):
        for wall in (day + timedelta(hours=hour, minutes=minute) for hour in hours for minute in minutes):
            probe = wall
            while datetime.fromtimestamp(probe.replace(tzinfo=own).timestamp(), own).replace(tzinfo=None) != probe:
                probe += timedelta(minutes=1)
            found.add(probe.replace(tzinfo=own).timestamp())
        day += timedelta(days=1)
    return sorted(found)


@pytest.mark.parametrize("zone", ZONES)
def test_ten_years_agree_with_a_scan_of_every_minute(zone):
    start, end = FIRST.replace(tzinfo=UTC).timestamp(), LAST.replace(tzinfo=UTC).timestamp()
    scanned, compared = list(quarters(zone)), 0
    expressions = EXPRESSIONS | (MORE if zone in STRANGE else {})

    for expression, (minutes, hours) in expressions.items():
        by_clock = expression.startswith("*")
        expected = scan_shown(scanned, minutes, hours) if by_clock else scan_fixed(zone, minutes, hours)
        expected = [tick for tick in expected if start < tick <= end - 60]
        schedule = Schedule.parse({"cron": expression, "timezone": zone})
        assert list(schedule.ticks(start, end - 60)) == expected, expression
        compared += len(expected)

    print(f"{zone}: {compared} ticks of {len(expressions)} expressions in ten years agree")


# ---- intervals


def test_an_interval_counts_elapsed_time_through_a_change_of_the_clocks():
    schedule = Schedule.parse({"every": "1h", "timezone": "Europe/Berlin"})
    start = moment("2026-03-29 00:00", "Europe/Berlin")

    found = list(schedule.ticks(start - 1, start + 23 * 3600 - 1))

    assert len(found) == 23 and {later - earlier for earlier, later in pairwise(found)} == {3600.0}


def test_an_interval_has_the_same_ticks_whoever_asks_and_when():
    schedule = Schedule.parse({"every": "15m"})

    assert {schedule.next(moment("2026-11-24 02:30") + offset) for offset in (0, 1, 899.9)} == {
        moment("2026-11-24 02:45")
    }


@given(st.floats(0.1, 1e6), st.floats(0, 4e9))
def test_the_next_tick_of_an_interval_is_later_and_at_most_one_interval_away(every, after):
    tick = Schedule.parse({"every": every}).next(after)

    assert after < tick <= after + every * 1.001 + 1e-5


# ---- many ticks, few wanted


@pytest.mark.parametrize("when", [{"cron": "* * * * *"}, {"every": 60}, {"cron": "30 2 * * *"}])
def test_the_newest_ticks_of_years_are_found_in_moments(when):
    schedule, until = Schedule.parse(when | {"timezone": "UTC"}), moment("2026-11-24 12:00")
    begin = time.perf_counter()

    found = schedule.newest(moment("2016-01-01"), until, 1000)

    print(f"the newest 1000 ticks of eleven years: {(time.perf_counter() - begin) * 1000:.0f} ms")
    assert len(found) == 1000 and found == sorted(set(found)) and schedule.next(found[-1]) > until
    assert time.perf_counter() - begin < 5


def test_the_newest_ticks_are_all_of_them_when_they_are_few():
    schedule = Schedule.parse({"cron": "0 * * * *", "timezone": "UTC"})

    assert schedule.newest(moment("2026-11-24"), moment("2026-11-24 03:30"), 1000) == [
        moment(f"2026-11-24 0{hour}:00") for hour in (1, 2, 3)
    ]


# ---- what a person writes


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("@hourly", "2026-11-24 01:00"), ("@daily", "2026-11-25 00:00"), ("@weekly", "2026-11-29 00:00"),
        ("@monthly", "2026-12-01 00:00"), ("@yearly", "2027-01-01 00:00"), ("0 9 * * MON", "2026-11-30 09:00"),
        ("0 9 * * mon-fri", "2026-11-24 09:00"), ("0 0 1 JAN *", "2027-01-01 00:00"), ("0 0 * * 0", "2026-11-29 00:00"),
        ("0 0 * * 7", "2026-11-29 00:00"), ("0 0 29 2 *", "2028-02-29 00:00"), ("0 12 13 * FRI", "2026-11-27 12:00"),
        ("*/35 * * * *", "2026-11-24 00:35"), ("0 0 L * *", "2026-11-30 00:00"), ("0 0 * * MON#1", "2026-12-07 00:00"),
    ],
)  # fmt: skip
def test_an_expression_comes_first_at(expression, first):
    schedule = Schedule.parse({"cron": expression, "timezone": "UTC"})

    assert schedule.next(moment("2026-11-24 00:00")) == moment(first)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cron": "30 25 * * *"}, 'cron: "30 25 * * *": hour 25 is not in 0-23'),
        ({"schedule": "60 2 * * *"}, 'schedule: "60 2 * * *": minute 60 is not in 0-59'),
        ({"cron": "0 0 0 * *"}, 'cron: "0 0 0 * *": day-of-month 0 is not in 1-31'),
        ({"cron": "0 0 * 13 *"}, 'cron: "0 0 * 13 *": month 13 is not in 1-12'),
        ({"cron": "0 0 * * 8"}, 'cron: "0 0 * * 8": day-of-week 8 is not in 0-7'),
        ({"cron": "0 0 * * MOM"}, 'cron: "0 0 * * MOM": day-of-week "MOM" is not 0-7 or SUN-SAT'),
        ({"cron": "*/0 * * * *"}, 'minute step "0" is not a number above 0'),
        ({"cron": "1- * * * *"}, 'minute "" is not 0-59'),
        ({"cron": "0 22-6 * * *"}, "hour 22-6 runs backwards"),
        ({"cron": "0 0 30 2 *"}, "never comes"),
        ({"cron": "* * * *"}, "has 4 fields, cron has 5"),
        ({"cron": "0 * * * * *"}, "has 6 fields, cron has 5"),
        ({"cron": "@fortnightly"}, '"@fortnightly" is not one of @hourly'),
        ({"cron": "9" * 5000 + " * * * *"}, "must be a cron expression"),
        ({"cron": "٣ * * * *"}, "must be a cron expression"),
        ({"cron": 5}, "must be a cron expression"),
        ({"cron": "@daily", "timezone": "Europe/Berln"}, 'did you mean "Europe/Berlin"?'),
        ({"cron": "@daily", "timezone": "../etc/passwd"}, "timezone: there is no zone"),
        ({"every": "15"}, "every: "),
        ({"every": 0}, "every: must be at least 0.1 s"),
        ({"every": float("nan")}, "every: "),
        ({"every": "1h", "cron": "@daily"}, "not both"),
        ({"timezone": "UTC"}, "give either a cron expression"),
        ({"every": "1h", "overlap": "queue"}, "overlap: must be one of skip, queue_one, queue_all, replace, allow"),
        ({"every": "1h", "catch_up": "some"}, "catch_up: must be one of none, latest, all"),
        ({"every": "1h", "jitter": -1}, "jitter: "),
        ({"every": "1h", "enabled": "yes"}, "enabled: must be true or false"),
        ({"every": "1h", "repeat_count": 0}, "repeat_count: "),
        ({"every": "1h", "repeat_until": "2026-03-29 02:30", "timezone": "Europe/Berlin"}, "does not exist"),
        ({"every": "1h", "evry": 1}, "evry: there is no such field"),
    ],
)
def test_what_cannot_be_is_refused_naming_the_field(given, message):
    with pytest.raises(ConfigError) as refused:
        Schedule.parse(given)

    assert message in str(refused.value)


@given(st.text(max_size=40), st.text(alphabet="0123456789*/-,LW# MONJAN", max_size=30))
def test_any_text_is_a_schedule_with_ticks_or_is_refused(wild, likely):
    for text in (wild, likely):
        try:
            schedule = Schedule.parse({"cron": text, "timezone": "Europe/Berlin"})
        except ConfigError:
            continue
        assert schedule.next(0.0) > 0.0


def test_a_naive_end_is_in_the_schedules_own_zone():
    schedule = Schedule.parse({"every": "1h", "repeat_until": "2026-11-24 03:00", "timezone": "Asia/Tokyo"})

    assert schedule.repeat_until == moment("2026-11-24 03:00", "Asia/Tokyo")
    assert schedule.next(schedule.repeat_until - 1) == schedule.repeat_until
    assert schedule.next(schedule.repeat_until) is None


@pytest.mark.parametrize("day", ["2026-11-24", date(2026, 11, 24)])
def test_a_day_as_the_end_is_meant_to_its_end(day):
    schedule = Schedule.parse({"every": "1h", "repeat_until": day, "timezone": "UTC"})

    assert list(schedule.ticks(moment("2026-11-24 22:30"), moment("2026-11-26"))) == [moment("2026-11-24 23:00")]


def test_a_schedule_without_a_zone_follows_the_machines(monkeypatch):
    schedule = Schedule.parse({"cron": "0 9 * * *"})
    found = []
    for zone in ("Asia/Tokyo", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        found.append(schedule.next(moment("2026-11-24 00:00", "UTC")))

    assert found == [moment("2026-11-25 09:00", "Asia/Tokyo"), moment("2026-11-24 09:00", "America/New_York")]


def test_a_schedule_survives_being_written_down():
    schedule = Schedule.parse(
        {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "jitter": "10m", "overlap": "queue_one", "repeat_count": 5}
    )

    assert Schedule.from_json(schedule.to_json()) == schedule


# ---- jitter


def test_jitter_is_the_same_each_time_and_differs_between_schedules_and_files():
    schedule = Schedule.parse({"cron": "@daily", "jitter": "10m"})
    delays = {schedule.delay(file, f"job{number}") for file in ("a", "b") for number in range(200)}

    assert schedule.delay("a", "job1") == schedule.delay("a", "job1")
    assert all(0 <= delay < 600 for delay in delays) and len(delays) > 200
    assert min(delays) < 60 and max(delays) > 540


@pytest.mark.parametrize(
    ("seconds", "text"), [(900, "15m"), (5400, "1h30m"), (90, "1m30s"), (0.5, "500ms"), (86400, "1d")]
)
def test_a_span_is_shown_as_it_would_be_written(seconds, text):
    assert short_duration(seconds) == text


def test_what_only_submits_does_not_load_the_arithmetic():
    script = "import fastworker_lite.producer, fastworker_lite.tasks.registry, sys; print('cronsim' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
