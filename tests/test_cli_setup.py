"""`fwl doctor`, `db`, `config` and `init`, as real processes on real files."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest

from fastworker_lite import SyncClient, leases
from fastworker_lite.cli import doctor_files, doctor_machine
from fastworker_lite.cli.doctor_files import Mount
from fastworker_lite.cli.init import TEMPLATE
from fastworker_lite.config import load
from fastworker_lite.job import Lane
from fastworker_lite.leases import ProcessIdentity
from fastworker_lite.settings import Config
from fastworker_lite.store import runners
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.create import SCHEMA_VERSION

ROOT = Path(__file__).resolve().parent.parent


class Site:
    """A folder of a person's own, and `fwl` typed in it."""

    def __init__(self, folder, place):
        self.folder = folder
        self.database = str(folder / "jobs.db")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FWL_", "XDG_CONFIG"))}
        self.variables = kept | {
            "PYTHONPATH": str(ROOT), "FWL_DB": self.database, "HOME": str(folder), "XDG_RUNTIME_DIR": str(place),
        }  # fmt: skip

    def fwl(self, *words, code=0, cwd=None, **changed):
        given = {name: value for name, value in (self.variables | changed).items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-m", "fastworker_lite", *words],
            capture_output=True, text=True, timeout=60, env=given, cwd=cwd or self.folder, check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def read(self, *words, code=0, **changed):
        return json.loads(self.fwl(*words, "--json", code=code, **changed).stdout)

    def doctor(self, *words, code=0, **changed):
        """The findings that are not ok, by what was looked at."""
        findings = self.read(*words, "doctor", code=code, **changed)["findings"]
        assert all(one["hint"] for one in findings if one["level"] != "ok"), findings
        return {one["check"]: one for one in findings if one["level"] != "ok" and one["check"] not in _OF_THE_MACHINE}

    def state(self):
        """Every file with its mode and contents, but for the gate, in which whoever went in leaves its number."""
        return {
            path.relative_to(self.folder).as_posix(): (path.lstat().st_mode, path.is_file() and path.read_bytes())
            for path in sorted(self.folder.rglob("*"))
            if path.name != "gate"
        }


#: What the machine that runs the tests may be short of, which is not what they are about.
_OF_THE_MACHINE = {"file_system", "free_space", "disk_speed"}


@pytest.fixture
def site(tmp_path, tmp_path_factory):
    return Site(tmp_path, tmp_path_factory.mktemp("run"))


@pytest.fixture
def used(site):
    """With a database in which a job has run."""
    site.fwl("run", "--", "true")
    return site


# ---- doctor: what it says


def test_doctor_finds_nothing_wrong_where_nothing_is_and_changes_nothing(used):
    before = used.state()

    said = used.fwl("doctor").stdout.splitlines()

    assert {line.split()[0] for line in said if not line.startswith(" ")} <= {"ok", "warning"}
    assert any("SQLite " in line for line in said) and any("is whole" in line for line in said)
    assert used.state() == before


def test_doctor_makes_nothing_where_there_is_no_database_yet(site):
    said = site.fwl("doctor").stdout

    assert f"there is none yet at {site.database}" in said
    assert site.state() == {}


def test_looking_makes_no_folder_for_a_default_database(site):
    (site.folder / "fastworker.toml").write_text("")

    for verb in (["doctor"], ["config", "show"], ["db", "path"], ["workers"]):
        site.fwl(*verb, FWL_DB=None)
    site.fwl("doctor", FWL_DB=None, cwd="/")

    assert list(site.state()) == ["fastworker.toml"]


def header(path, offset, value):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(">I", value))


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.write_text("not a database, but a text of some length\n" * 10), "is not a SQLite database"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE a (b)").connection.close(), "of another program"),
        (lambda path: header(path, 60, SCHEMA_VERSION + 1), f"has schema {SCHEMA_VERSION + 1}"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
        (lambda path: path.write_bytes(path.read_bytes()[:8192] + os.urandom(200_000)), "damaged"),
        (
            lambda path: sqlite3.connect(path).execute("DROP TABLE runner").connection.close(),
            "the table runner is missing",
        ),
    ],
)
def test_doctor_survives_a_file_that_is_no_database_of_ours_and_leaves_it(used, spoil, text):
    path = Path(used.database)
    if text == "of another program":
        path.unlink()
    spoil(path)
    before = used.state()

    found = used.doctor(code=1)

    assert text in found["database"]["text"]
    assert used.state() == before


def test_doctor_says_who_else_may_read_the_database_and_how_to_end_that(used):
    os.chmod(used.database, 0o644)
    os.chmod(used.database + ".d", 0o755)

    findings = used.read("doctor", code=1)["findings"]

    hints = [one["hint"] for one in findings if one["level"] == "problem"]
    assert hints == [f"chmod 600 {used.database}", f"chmod 700 {used.database}.d"]
    assert os.stat(used.database + ".d").st_mode & 0o777 == 0o755
    for hint in hints:
        subprocess.run(hint, shell=True, check=True)
    assert used.doctor() == {}


def test_doctor_says_that_the_database_cannot_be_written(used):
    os.chmod(used.database, 0o400)

    assert "0400" in used.doctor(code=1)["permissions"]["text"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_doctor_says_whose_the_database_is(used):
    os.chown(used.database, 12345, -1)

    assert "belongs to user 12345" in used.doctor(code=1)["permissions"]["text"]


def test_doctor_counts_what_dead_processes_have_left_behind(used):
    with subprocess.Popen(["sleep", "600"]) as process:
        dead = ProcessIdentity.of(process.pid)
        process.kill()
    connection = Connection(used.database)
    connection.write(runners.add_worker, "w-gone", None, Lane.SYNC, dead.text(), time.time())
    connection.close()

    assert used.doctor()["stale"]["text"].startswith("stale rows of runners and workers that are gone: 1;")
    used.fwl("submit", "--", "true")
    assert "runners" in used.doctor()
    used.fwl("drain")
    assert used.doctor() == {}


def test_doctor_sees_a_job_from_the_future(used):
    sql = sqlite3.connect(used.database)
    sql.execute("UPDATE job SET created_at = created_at + 86400")
    sql.commit()
    sql.close()

    assert "still to come" in used.doctor()["clock"]["text"]


def test_doctor_works_while_jobs_run(used):
    with SyncClient(used.database, workers=1, runner="own") as client:
        handle = client.submit(time.sleep, 0.5)
        assert used.doctor() == {}
        handle.result(timeout=10)


def test_doctor_says_that_a_socket_is_elsewhere_where_the_path_is_long(site):
    folder = site.folder / ("x" * 100)
    folder.mkdir()

    [finding] = [
        one for one in site.read("--db", str(folder / "a.db"), "doctor")["findings"] if one["check"] == "sockets"
    ]

    assert "too long for a socket" in finding["text"] and finding["level"] == "ok"


def test_doctor_says_that_no_socket_can_be_made(tmp_path):
    assert doctor_files.bind_fault(str(tmp_path)) is None
    assert doctor_files.bind_fault(str(tmp_path / "none")) == "No such file or directory"
    assert os.listdir(tmp_path) == []


def test_doctor_warns_of_a_large_log(used):
    path = f"{used.database}.d/worker.log"
    with open(path, "w") as file:
        file.truncate(200_000_000)

    assert "200.0 MB" in used.doctor()["logs"]["text"]


# ---- doctor: the settings and their tasks


def test_doctor_goes_on_where_the_settings_are_wrong(used):
    (used.folder / "fastworker.toml").write_text("workers = -1\n")

    found = used.read("doctor", code=1)["findings"]

    texts = {one["check"]: one["text"] for one in found}
    assert "fastworker.toml:1: workers must be at least 0" in texts["settings"]
    assert texts["database"].endswith("is whole")
    assert "database" not in {one["check"] for one in used.read("doctor", code=1, FWL_DB=None)["findings"]}


def test_doctor_says_that_a_name_is_no_files(site):
    assert ":memory:" in site.doctor(code=1, FWL_DB=":memory:")["database"]["text"]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("import os; os._exit(0)", "it calls exit(0)"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("import nosuch", "No module named 'nosuch'"),
        ("def", "SyntaxError"),
    ],
)
def test_doctor_survives_a_task_module_that_does_anything(site, code, text):
    (site.folder / "mytasks.py").write_text(code)
    (site.folder / "fastworker.toml").write_text('tasks = ["mytasks"]')

    finding = site.doctor(code=1)["tasks"]

    assert text in finding["text"] and f"with {site.folder} first on sys.path" in finding["text"]
    assert subprocess.run(finding["hint"], shell=True, cwd="/", check=False, capture_output=True).returncode != 85


def test_doctor_waits_only_so_long_for_a_task_module_and_ends_what_it_has_started(tmp_path):
    (tmp_path / "mytasks.py").write_text(
        f"import subprocess; open({str(tmp_path / 'pid')!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n"
        "import time; time.sleep(600)\n"
    )

    fault = doctor_machine.import_fault("mytasks", str(tmp_path), seconds=1.0)

    assert fault == "it takes longer than 1 s"
    started = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while ProcessIdentity.of(started) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_doctor_imports_task_modules_from_the_folder_of_the_settings(site):
    (site.folder / "below").mkdir()
    (site.folder / "mytasks.py").write_text("print('noise')")
    (site.folder / "fastworker.toml").write_text('tasks = ["mytasks"]')

    said = site.fwl("doctor", cwd=site.folder / "below").stdout

    assert "tasks: mytasks can be imported" in said and "noise" not in said
    assert not list(site.folder.glob("**/__pycache__"))


# ---- doctor: where the database lies

_MOUNTS = r"""
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/export /home nfs4 rw 0 0
//nas/share /mnt/my\040share cifs rw 0 0
tmpfs /run tmpfs rw 0 0
overlay /var/lib overlay rw 0 0
/dev/sdb1 /home/ana ext4 rw 0 0
tmpfs /home/ana tmpfs rw 0 0
ana@host:/srv /srv fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "mount"),
    [
        ("/", ("/", "ext4")),
        ("/var/libx", ("/", "ext4")),
        ("/var/lib/jobs", ("/var/lib", "overlay")),
        ("/home/bob/x", ("/home", "nfs4")),
        ("/home/ana/x", ("/home/ana", "tmpfs")),
        ("/mnt/my share/x", ("/mnt/my share", "cifs")),
        ("/srv", ("/srv", "fuse.sshfs")),
    ],
)
def test_the_innermost_and_latest_mount_is_the_one_that_counts(folder, mount):
    assert doctor_files.find_mount(doctor_files.parse_mounts(_MOUNTS), folder) == mount


def test_what_mount_prints_on_macos_is_read():
    text = "/dev/disk3s1s1 on / (apfs, sealed, local)\n//ana@nas/x on /Volumes/My (old) Disk (smbfs, nodev)\n"

    assert doctor_files.parse_mount_command(text) == [Mount("/", "apfs"), Mount("/Volumes/My (old) Disk", "smbfs")]


@pytest.mark.parametrize(
    ("kind", "level"), [("nfs4", "problem"), ("9p", "problem"), ("overlay", "warning"), ("ext4", "ok")]
)
def test_a_network_file_system_is_a_problem_and_a_passing_one_a_warning(kind, level):
    finding = doctor_files.judge("/srv/jobs", Mount("/", kind))

    assert finding.level == level and (finding.hint is None) == (level == "ok")


@pytest.mark.parametrize(
    "path",
    [
        "Dropbox/jobs",
        "OneDrive/x",
        "OneDrive - Contoso",
        "Google Drive/a/b",
        "Library/Mobile Documents/x",
        "Dropbox (Personal)",
    ],
)
def test_a_folder_that_is_synchronized_is_known_by_its_name(path):
    assert doctor_files.find_synced_folder(f"/home/ana/{path}") is not None


@pytest.mark.parametrize("path", ["dropboxes/x", "MyDropbox", "Boxes", "projects/OneDriver"])
def test_a_folder_of_a_similar_name_is_not(path):
    assert doctor_files.find_synced_folder(f"/home/ana/{path}") is None


def test_syncthing_is_known_by_its_mark_in_a_folder_above(site):
    (site.folder / "a" / "b").mkdir(parents=True)
    (site.folder / "a" / ".stfolder").mkdir()

    finding = site.doctor("--db", str(site.folder / "a" / "b" / "jobs.db"), code=1)["synced_folder"]

    assert finding["text"].startswith(f"{site.folder}/a is kept the same")


def test_measuring_the_disk_leaves_nothing_behind(tmp_path):
    assert 0 < doctor_files.measure_fsync(str(tmp_path)) < 5
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("version", "has_bug"),
    [
        ("3.6.23", False), ("3.7.0", True), ("3.40.1", True), ("3.44.5", True), ("3.44.6", False), ("3.45.0", True),
        ("3.50.6", True), ("3.50.7", False), ("3.51.2", True), ("3.51.3", False), ("3.52.0", False),
    ],
)  # fmt: skip
def test_the_versions_of_sqlite_with_the_reset_bug_are_known(version, has_bug):
    assert doctor_machine.has_reset_bug(tuple(map(int, version.split(".")))) is has_bug


def test_a_service_that_ends_with_its_users_session_is_warned_of(site):
    units, programs = site.folder / ".config/systemd/user", site.folder / "bin"
    units.mkdir(parents=True)
    programs.mkdir()
    (units / "jobs.service").write_text("ExecStart=/usr/bin/python3 -m fastworker_lite worker")
    (programs / "loginctl").write_text('#!/bin/sh\necho "Linger=$LINGER"\n')
    os.chmod(programs / "loginctl", 0o755)
    path = f"{programs}:{os.environ['PATH']}"

    assert site.doctor(PATH=path, LINGER="no")["service"]["hint"] == "loginctl enable-linger"
    assert site.doctor(PATH=path, LINGER="yes") == {}
    (units / "jobs.service").write_text("ExecStart=/usr/bin/other")
    assert site.doctor(PATH=path, LINGER="no") == {}


# ---- db


def test_db_path_prints_the_path_that_would_be_used(site):
    assert site.fwl("db", "path").stdout == f"{site.database}\n"
    assert site.fwl("db", "path", FWL_DB=None).stdout == f"{site.folder}/.local/state/fastworker/fwl.db\n"
    assert site.state() == {}


def test_db_check_of_a_good_file_is_0_and_of_none_is_3(used):
    assert used.fwl("db", "check").stdout == f"no problems in {used.database}\n"
    assert "fwl submit" in used.fwl("--db", "none.db", "db", "check", code=3).stderr


def test_db_check_finds_rows_that_cannot_be(used):
    sql = sqlite3.connect(used.database)
    for state in ("running", "scheduled"):
        sql.execute("INSERT INTO job SELECT * FROM job WHERE id = 1 AND FALSE")
        sql.execute(
            "INSERT INTO job (state, queue, lane, priority, created_at, kind, task, park, checksum, payload) "
            "VALUES (?, 'default', 0, 0, 1.0, 'call', 't', 0, 0, x'00')",
            (state,),
        )
    sql.commit()
    sql.close()

    assert used.fwl("db", "check", code=65).stdout.splitlines() == [
        "jobs are running without a worker: 2",
        "jobs are scheduled for no time: 3",
    ]
    assert len(used.read("db", "check", code=65)["problems"]) == 2


def test_db_check_says_what_somebody_has_dropped(used):
    sql = sqlite3.connect(used.database)
    sql.executescript("DROP TABLE edge; DROP INDEX job_queued; DROP TRIGGER job_ended_is_final")
    sql.close()

    assert used.fwl("db", "check", code=65).stdout.splitlines() == [
        "the trigger job_ended_is_final is missing",
        "the table edge is missing",
        "the index edge_of_child is missing",
        "the index job_queued is missing",
    ]


def test_db_check_of_a_damaged_file_is_65(used):
    path = Path(used.database)
    path.write_bytes(path.read_bytes()[:8192] + os.urandom(200_000))

    used.fwl("db", "check", code=65)


def test_a_newer_schema_is_78_for_all_of_db(used):
    header(used.database, 60, SCHEMA_VERSION + 1)

    for verb in (["check"], ["migrate"], ["backup", "b.db"]):
        assert "upgrade" in used.fwl("db", *verb, code=78).stderr


def test_migrate_has_nothing_to_do(used):
    assert used.fwl("db", "migrate").stdout == f"schema {SCHEMA_VERSION}, nothing to do\n"


def test_a_backup_is_private_is_ours_and_replaces_nothing(used):
    document = used.read("db", "backup", "copy.db")

    copy = used.folder / "copy.db"
    assert document == {"schema": "fwl.backup/1", "path": str(copy), "bytes": copy.stat().st_size}
    assert copy.stat().st_mode & 0o777 == 0o600
    before = copy.read_bytes()
    assert "copy.db exists" in used.fwl("db", "backup", "copy.db", code=4).stderr
    assert copy.read_bytes() == before
    assert used.read("--db", "copy.db", "status", "1")["jobs"][0]["state"] == "succeeded"
    used.fwl("--db", "copy.db", "db", "check")
    assert used.fwl("--db", "copy.db", "run", "--", "echo", "on").stdout == "on\n"


def test_a_backup_that_cannot_be_made_leaves_nothing(used):
    assert "mkdir -p" in used.fwl("db", "backup", "none/copy.db", code=2).stderr
    (used.folder / "link.db").symlink_to(used.folder / "elsewhere.db")
    used.fwl("db", "backup", "link.db", code=4)
    assert not (used.folder / "elsewhere.db").exists()


def test_a_backup_holds_one_moment_while_workers_run(used):
    """Each job is submitted before its successor: a copy that were not of one moment would have a gap."""
    with SyncClient(used.database, workers=2, runner="own") as client:
        is_over = threading.Event()
        count = 0

        def submit():
            nonlocal count
            while not is_over.is_set():
                client.submit(len, "x")
                count += 1

        thread = threading.Thread(target=submit)
        thread.start()
        try:
            for number in range(3):
                used.fwl("db", "backup", f"{number}.db")
        finally:
            is_over.set()
            thread.join()

    for number in range(3):
        used.fwl("--db", f"{number}.db", "db", "check")
        connection = Connection(used.folder / f"{number}.db")
        found = connection.read(lambda sql: sql.execute("SELECT count(*), max(id) FROM job").fetchone())
        connection.close()
        assert found[0] == found[1] <= count + 1


# ---- config


def test_config_show_is_a_configuration_that_says_the_same(site):
    text = """
workers = 3
queues = ["a", "b c"]
durability = "normal"
stop_timeout = "1m"
hooks.on_failure = ["echo", 'it\\s "so"']
[keep]
results = "1d"
[job]
retries = 3
retry_on = ["OSError"]
expires = "1d"
[queue."i o"]
workers = 2
rate = "10/s"
[cron.nightly]
schedule = "30 2 * * *"
command = ["true"]
env = { A = "b" }
repeat_until = 2036-12-31
[listener]
app = { address = "unix:///run/app.sock", on = ["failure"] }
"""
    (site.folder / "fastworker.toml").write_text(text)
    shown = site.fwl("config", "show", "--sources").stdout
    (site.folder / "again.toml").write_text(shown)

    first, second = load(site.folder / "fastworker.toml"), load(site.folder / "again.toml")

    assert second == first._replace(db=site.database, path=second.path)


def test_config_show_says_where_each_value_comes_from(site):
    (site.folder / "fastworker.toml").write_text(
        "# mine\nworkers = 3\n\n[keep]\njobs = 5\n\n[queue]\nio = { workers = 1 }\n"
    )

    shown = site.fwl("config", "show", "--sources").stdout.splitlines()

    assert {"workers = 3  # fastworker.toml:2", "keep.jobs = 5  # fastworker.toml:5"} <= set(shown)
    assert {"queue.io = { workers = 1 }  # fastworker.toml:8", "timeout = 30.0  # default"} <= set(shown)
    assert f'db = "{site.database}"  # FWL_DB' in shown
    assert (
        f'db = "{site.folder}/x.db"  # --db'
        in site.fwl("--db", "x.db", "config", "show", "--sources").stdout.splitlines()
    )
    settings = {one["name"]: one for one in site.read("config", "show")["settings"]}
    assert (settings["workers"]["value"], settings["workers"]["source"]) == (3, "file")
    assert (settings["queues"]["value"], settings["db"]["source"]) == (None, "environment")


def test_config_show_knows_the_variables_that_go_before_the_file(site):
    (site.folder / "fastworker.toml").write_text('idle_exit = "5m"\n')

    shown = site.fwl("config", "show", "--sources", FWL_IDLE_EXIT="2m", FWL_AUTOSTART="0").stdout.splitlines()

    assert {"idle_exit = 120.0  # FWL_IDLE_EXIT", 'autostart = "never"  # FWL_AUTOSTART'} <= set(shown)
    assert "FWL_AUTOSTART" in site.fwl("config", "show", code=78, FWL_AUTOSTART="often").stderr


def test_config_show_names_the_line_in_a_pyproject(site):
    (site.folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[tool.fastworker]\nworkers = 3\n[tool.fastworker.keep]\njobs = 5\n'
    )

    shown = site.fwl("config", "show", "--sources").stdout.splitlines()

    assert {"workers = 3  # pyproject.toml:4", "keep.jobs = 5  # pyproject.toml:6"} <= set(shown)


def test_config_check_names_every_problem_with_its_line(site):
    (site.folder / "fastworker.toml").write_text(
        'wrokers = 1\nworkers = -1\n[keep]\njobs = 0\nfailed = "x"\n[queue.io]\nworkers = 0\n'
        '[cron.n]\nschedule = "x"\ncommand = ["true"]\n[job]\nretries = "x"\n'
    )

    said = site.fwl("config", "check", code=78).stdout.splitlines()

    assert [line.split(": ")[0] for line in said] == [f"fastworker.toml:{line}" for line in (1, 2, 4, 5, 6, 9, 12)]
    assert [one["setting"] for one in site.read("config", "check", code=78)["problems"]] == [
        "wrokers", "workers", "keep.jobs", "keep.failed", "queue.io", "cron.n.schedule", "job.retries",
    ]  # fmt: skip


def test_config_check_and_path_of_a_good_file_of_a_bad_one_and_of_none(site):
    for verb in ("check", "path"):
        assert "fwl init" in site.fwl("config", verb, code=3).stderr
    file = site.folder / "fastworker.toml"
    file.write_text("workers = 1\n")
    assert site.fwl("config", "check").stdout == "no problems in fastworker.toml\n"
    file.write_text("workers = \n")
    assert "fastworker.toml:1: not TOML" in site.fwl("config", "check", code=78).stdout
    assert site.fwl("config", "path").stdout == f"{file}\n"
    assert "cannot be read" in site.fwl("--config", "none.toml", "config", "check", code=78).stdout


# ---- init


def test_init_writes_one_file_that_says_what_is_so_and_replaces_none(site):
    assert site.fwl("init").stdout == f"{site.folder}/fastworker.toml\n"

    assert list(site.state()) == ["fastworker.toml"]
    assert load(site.folder / "fastworker.toml") == Config(
        db=".fastworker/fwl.db", path=f"{site.folder}/fastworker.toml"
    )
    (site.folder / "fastworker.toml").write_text("workers = 7\n")
    assert "exists, and stays as it is" in site.fwl("init", code=4).stderr
    assert (site.folder / "fastworker.toml").read_text() == "workers = 7\n"


def test_init_makes_the_file_in_another_folder_where_told(site):
    assert "mkdir -p" in site.fwl("init", "--dir", "below", code=2).stderr
    (site.folder / "below").mkdir()

    document = site.read("init", "--dir", "below")

    assert document == {"schema": "fwl.init/1", "path": f"{site.folder}/below/fastworker.toml"}


def test_init_hides_no_settings_that_stand_in_a_pyproject(site):
    (site.folder / "pyproject.toml").write_text("[tool.fastworker]\nworkers = 3\n")

    assert "[tool.fastworker]" in site.fwl("init", code=4).stderr


def test_what_the_template_comments_out_are_settings_that_work(site):
    lines = TEMPLATE.splitlines()
    text = "\n".join(line.removeprefix("# ") for line in lines if " = " in line or line.startswith("["))
    text = text.replace("tasks = []\n", "")
    (site.folder / "fastworker.toml").write_text(text)

    assert set(tomllib.loads(text)) == {"db", "workers", "tasks", "job", "queue", "cron", "hooks"}
    assert site.fwl("config", "check").stdout == "no problems in fastworker.toml\n"


def test_a_lease_is_free_that_nobody_holds(tmp_path):
    assert not leases.is_held_by(str(tmp_path / "none"), os.getpid())
