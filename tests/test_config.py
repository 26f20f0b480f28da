"""Settings: found, read, checked, and refused with the place and the rule."""

import os
import pwd
import re
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from fastworker_lite.commands import login_environment
from fastworker_lite.config import database_path, load, state_folder, with_overrides
from fastworker_lite.durations import parse_duration
from fastworker_lite.errors import ConfigError
from fastworker_lite.options import JobOptions
from fastworker_lite.settings import Config, ListenerSetting, QueueSetting

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "fastworker.toml.example"
#: What stands in it before the tables.
SETTINGS = EXAMPLE.read_text().partition("\n[")[0]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder with nothing in it, and the current folder a project below it."""
    for name in ("FWL_CONFIG", "FWL_DB", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    return tmp_path


def write(text, path="fastworker.toml"):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


# ---- the example


def test_the_example_file_holds_the_defaults():
    write(EXAMPLE.read_text())

    assert load() == Config(path=os.path.abspath("fastworker.toml"))


def test_the_example_file_shows_every_setting_once():
    shown = re.findall(r"^(?:# )?(\w+) = ", SETTINGS, re.MULTILINE) + re.findall(
        r"^\[(\w+)\]", EXAMPLE.read_text(), re.MULTILINE
    )

    assert sorted(shown) == sorted(set(Config._fields) - {"path"})


def test_the_example_file_comments_out_what_toml_cannot_say():
    live = set(tomllib.loads(EXAMPLE.read_text()))

    assert {name for name, default in Config._field_defaults.items() if default is None} - {"path"} == set(
        Config._fields
    ) - {"path"} - live


def test_the_lines_commented_out_in_the_example_are_settings_that_work():
    write(re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE))

    config = load()

    assert (config.db, config.queues, config.durability) == (".fastworker/fwl.db", ("default",), "full")
    assert config.job == JobOptions.parse_for_tasks(
        {
            "timeout": 3600, "retries": 3, "retry_delay": 10, "retry_backoff": 2, "retry_max_delay": 3600,
            "retry_on": [OSError], "give_up_on": [KeyError], "retry_on_timeout": True, "on_lost": "fail", "expires": 86400,
            "concurrency": 2, "rate": "10/s",
        }
    )  # fmt: skip
    assert database_path(None, config) == os.path.abspath(".fastworker/fwl.db")


def test_queues_stand_in_the_file_with_their_limits():
    write('[queue.io]\nworkers = 2\nrate = "100/h"\n[queue.mail]\nmax_length = 10\n')

    assert load().queue == (
        QueueSetting("io", (("workers", 2), ("rate", "100/h"))),
        QueueSetting("mail", (("max_length", 10),)),
    )


def test_listeners_stand_in_the_file_with_what_they_want():
    write('[listener.app]\naddress = "unix:///run/app.sock"\ntask = "resize*"\non = ["failure"]\n')

    assert load().listener == (ListenerSetting("app", "unix:///run/app.sock", "resize*", None, ("failure",)),)


@pytest.mark.parametrize(
    "text",
    ["queue = 1", "[queue.io]\nworkers = 0", "[queue.io]\nrate = '5'", "[queue.io]\nmax_lenght = 5",
     "listener = 1", "[listener.app]\ntask = 'x'", "[listener.app]\naddress = '/s'\non = ['z']",
     "[listener.app]\naddress = '/s'\ntaks = 'x'"],
)  # fmt: skip
def test_a_broken_table_is_refused_with_the_file_and_the_line(text):
    write("\n" + text)

    with pytest.raises(ConfigError, match=r"fastworker\.toml:2: "):
        load()


@pytest.mark.parametrize(
    "text",
    ["[queue]\nio = 1", "[listener]\napp = 1", "[keep]\nsucceded = '1d'", "[keep]\njobs = 0", "[job]\nretires = 1",
     "[job]\ntimeout = 'soon'", "[hooks]\nping = 'x'", "[tool.fastworker.hooks]\ndesktop = 1"],
)  # fmt: skip
def test_a_broken_setting_of_a_table_is_refused_with_its_own_line(text):
    file = "pyproject.toml" if text.startswith("[tool") else "fastworker.toml"
    write("\n" + text, file)

    with pytest.raises(ConfigError, match=rf"{file}:3: "):
        load()


# ---- where the file is found


def test_without_a_file_every_setting_is_its_default(home):
    assert load() == Config()


def test_the_nearest_file_upwards_is_read(home):
    write("workers = 1", home / "fastworker.toml")
    write("workers = 2")
    folder = Path("a/b")
    folder.mkdir(parents=True)

    assert load(start=folder).workers == 2


def test_the_search_ends_at_the_root_of_a_checkout(home):
    write("workers = 1", home / "fastworker.toml")
    Path(".git").mkdir()

    assert load().workers == 0


def test_the_search_ends_at_the_home_folder(home, monkeypatch):
    write("workers = 1", home / "fastworker.toml")
    monkeypatch.setenv("HOME", os.getcwd())

    assert load().workers == 0


def test_a_file_in_the_home_folder_itself_is_read(home):
    write("workers = 3", home / "fastworker.toml")

    assert load().workers == 3


def test_pyproject_is_read_when_there_is_no_file_of_ours():
    write("[project]\nname = 'x'\n[tool.fastworker]\nworkers = 4\n", "pyproject.toml")

    assert load().workers == 4


def test_a_file_of_ours_further_up_goes_before_a_pyproject(home):
    write("workers = 1", home / "fastworker.toml")
    write("[tool.fastworker]\nworkers = 4\n", "pyproject.toml")

    assert load().workers == 1


def test_a_pyproject_without_our_table_is_passed_over(home):
    write("[tool.fastworker]\nworkers = 4\n", home / "pyproject.toml")
    write("[project]\ndependencies = ['fastworker-lite']\n", "pyproject.toml")

    assert load().workers == 4


def test_a_broken_pyproject_that_does_not_mention_us_is_nobodys_business():
    write("[broken", "pyproject.toml")

    assert load() == Config()


def test_the_environment_names_the_file(home, monkeypatch):
    write("workers = 1")
    write("workers = 2", home / "other.toml")
    monkeypatch.setenv("FWL_CONFIG", str(home / "other.toml"))

    assert load().workers == 2


def test_an_argument_goes_before_the_environment(monkeypatch):
    write("workers = 5", "mine.toml")
    monkeypatch.setenv("FWL_CONFIG", "nowhere.toml")

    assert load("mine.toml").workers == 5


def test_a_named_file_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"^nowhere\.toml cannot be read: No such file or directory$"):
        load("nowhere.toml")


def test_a_named_pyproject_without_our_table_is_refused():
    write("[project]\n", "pyproject.toml")

    with pytest.raises(ConfigError, match=r"pyproject\.toml has no table \[tool\.fastworker\]"):
        load("pyproject.toml")


def test_a_current_folder_that_was_removed_does_no_harm(home, monkeypatch):
    gone = home / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert load() == Config()


def test_toml_is_not_imported_where_there_is_no_file():
    code = "import sys; from fastworker_lite import config; config.load(); print('tomllib' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert found.stdout == "False\n"


# ---- what a file may say


def test_every_setting_is_read():
    write(
        'db = "jobs.db"\nworkers = 3\nqueues = ["io", "mail"]\ntasks = ["app.tasks"]\ndurability = "normal"\n'
        'stop_timeout = "1m"\nkill_grace = 2\nmax_payload = 10\nmax_result = 20\nmax_coroutines = 5\ntimeout = 0.5\n'
    )

    assert load() == Config(
        db="jobs.db",
        workers=3,
        queues=("io", "mail"),
        tasks=("app.tasks",),
        durability="normal",
        stop_timeout=60.0,
        kill_grace=2.0,
        max_payload=10,
        max_result=20,
        max_coroutines=5,
        timeout=0.5,
        path=os.path.abspath("fastworker.toml"),
    )


def test_zero_workers_means_one_for_each_core():
    assert Config(workers=0).worker_count == os.cpu_count()
    assert Config(workers=3).worker_count == 3


BROKEN = {
    "workers = -1": "fastworker.toml:3: workers must be at least 0 (0 is one for each core), got -1",
    "workers = 1001": "fastworker.toml:3: workers must be at most 1000, got 1001",
    "workers = 2.0": "fastworker.toml:3: workers must be a whole number, got 2.0",
    "workers = true": "fastworker.toml:3: workers must be a whole number, got True",
    'workers = "2"': 'fastworker.toml:3: workers must be a whole number, got "2"',
    "workers = 0x" + "f" * 5000: "fastworker.toml:3: workers must be at most 1000, got a number of 20000 bits",
    "[workers]\ncount = 2": "fastworker.toml:3: workers must be a whole number, got {'count': 2}",
    "worker = 2": 'fastworker.toml:3: there is no setting "worker"; did you mean "workers"?',
    '"stop timeout" = 2': 'fastworker.toml:3: there is no setting "stop timeout"; did you mean "stop_timeout"?',
    "colour = 2": 'fastworker.toml:3: there is no setting "colour"; the settings are db, workers,',
    'path = "x"': 'fastworker.toml:3: there is no setting "path"',
    "tool.fastworker.workers = 2": 'fastworker.toml:3: there is no setting "tool"',
    "max_payload = 0": "fastworker.toml:3: max_payload must be at least 1, got 0",
    "max_result = 134217729": "fastworker.toml:3: max_result must be at most 134217728, got 134217729",
    "max_coroutines = 0": "fastworker.toml:3: max_coroutines must be at least 1, got 0",
    "timeout = -1": "fastworker.toml:3: timeout must be from 0 to 10000000000 seconds, got -1",
    "timeout = nan": "fastworker.toml:3: timeout must be seconds or a duration",
    "timeout = inf": "fastworker.toml:3: timeout must be seconds or a duration",
    "timeout = true": "fastworker.toml:3: timeout must be seconds or a duration",
    "timeout = 1" + "0" * 400: "fastworker.toml:3: timeout must be from 0 to 10000000000 seconds, got a number of",
    'timeout = "30"': 'fastworker.toml:3: timeout must be a duration: "30" needs a unit, as in 30s',
    'stop_timeout = "soon"': 'fastworker.toml:3: stop_timeout must be a duration: "soon" is not a duration',
    "kill_grace = 1979-05-27": "fastworker.toml:3: kill_grace must be seconds or a duration",
    'queues = "io"': 'fastworker.toml:3: queues must be a list of queue names, got "io"',
    "queues = []": "fastworker.toml:3: queues must name at least one queue, got []",
    'queues = [""]': "fastworker.toml:3: queues holds a name that cannot be: queue must be a text of 1 to 200",
    "queues = [1]": "fastworker.toml:3: queues holds a name that cannot be",
    'tasks = "app"': 'fastworker.toml:3: tasks must be a list of module names, got "app"',
    'tasks = ["app/tasks.py"]': 'fastworker.toml:3: tasks must be a list of modules such as "app.tasks", got "app/tasks.py"',
    "tasks = [[]]": "fastworker.toml:3: tasks must be a list of modules",
    'durability = "off"': 'fastworker.toml:3: durability must be "full" or "normal", got "off"',
    "durability = ['full']": "fastworker.toml:3: durability must be",
    'db = ""': 'fastworker.toml:3: db must be the path of a file, got ""',
    "db = 1": "fastworker.toml:3: db must be the path of a file, got 1",
    'db = "a\\u0000b"': "fastworker.toml:3: db must be the path of a file, got 'a\\x00b'",
    'db = ":memory:"': "fastworker.toml:3: db must be the path of a file that several processes can open",
    "workers = ": "fastworker.toml:3: not TOML: Invalid value",
    "workers 2": "fastworker.toml:3: not TOML: ",
    'kill_grace = 1\ndb = "': "fastworker.toml:4: not TOML: ",
    "timeout = 1\ntimeout = 2": "fastworker.toml:4: not TOML: Cannot overwrite a value",
    "timeout = 1" + "0" * 5000: "fastworker.toml: not TOML: ",
    "tasks = " + "[" * 100_000: "fastworker.toml: not TOML: ",
}


@pytest.mark.parametrize("lines", BROKEN, ids=lambda lines: ascii(lines[:30]))
def test_a_broken_setting_is_refused_with_its_place_and_rule(lines):
    write(f"# settings\n\n{lines}\n")

    with pytest.raises(ConfigError) as caught:
        load()

    assert str(caught.value).startswith(BROKEN[lines])
    assert len(str(caught.value)) < 400


def test_a_broken_setting_in_pyproject_has_the_line_of_our_table():
    write("[tool.other]\nworkers = 1\n[tool.fastworker]\n\nworkers = -1\n[tool.more]\nworkers = 2\n", "pyproject.toml")

    with pytest.raises(ConfigError, match=r"^pyproject\.toml:5: workers must be at least 0"):
        load()


def test_our_table_in_pyproject_must_be_a_table():
    write("[tool]\nfastworker = 1\n", "pyproject.toml")

    with pytest.raises(ConfigError, match=r"^pyproject\.toml: tool\.fastworker must be a table, got 1$"):
        load()


def test_a_file_that_is_not_utf_8_is_refused_with_the_line():
    Path("fastworker.toml").write_bytes(b"workers = 1\ndb = '\xe9'\n")

    with pytest.raises(ConfigError, match=r"^fastworker\.toml:2: the file must be UTF-8, got byte 0xe9$"):
        load()


def test_a_byte_order_mark_is_no_setting():
    Path("fastworker.toml").write_bytes(b"\xef\xbb\xbfworkers = 1\r\n")

    assert load().workers == 1


def test_a_folder_in_the_files_place_is_refused():
    Path("fastworker.toml").mkdir()

    with pytest.raises(ConfigError, match=r"^fastworker\.toml is not a regular file"):
        load()


def test_a_device_that_never_ends_is_not_read():
    with pytest.raises(ConfigError, match="is not a regular file"):
        load("/dev/zero")


def test_a_dangling_link_in_the_files_place_is_refused():
    Path("fastworker.toml").symlink_to("nowhere")

    with pytest.raises(ConfigError, match=r"^fastworker\.toml cannot be read: No such file"):
        load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused():
    write("workers = 1")
    Path("fastworker.toml").chmod(0)

    with pytest.raises(ConfigError, match=r"^fastworker\.toml cannot be read: Permission denied$"):
        load()


def test_a_file_too_large_to_be_settings_is_refused():
    write("#" * 1_100_000)

    with pytest.raises(ConfigError, match="is larger than 1048576 bytes"):
        load()


# ---- arguments


def test_arguments_are_laid_over_the_file():
    config = with_overrides(Config(workers=2, timeout=9.0), workers=3, timeout=timedelta(minutes=1), queues=["io"])

    assert (config.workers, config.timeout, config.queues) == (3, 60.0, ("io",))


def test_an_argument_of_none_leaves_the_setting():
    assert with_overrides(Config(workers=2), workers=None) == Config(workers=2)


def test_a_broken_argument_is_refused_without_a_file_in_the_message():
    with pytest.raises(ConfigError, match=r"^max_payload must be at least 1, got 0$"):
        with_overrides(Config(path="/x/fastworker.toml"), max_payload=0)


@pytest.mark.parametrize("value", [3, None])
def test_an_unknown_argument_is_refused(value):
    with pytest.raises(ConfigError, match=r'^there is no setting "worker"; did you mean "workers"\?$'):
        with_overrides(Config(), worker=value)


def test_a_relative_database_given_as_an_argument_belongs_to_the_current_folder():
    config = with_overrides(Config(path="/elsewhere/fastworker.toml"), db=Path("jobs.db"))

    assert database_path(None, config) == os.path.abspath("jobs.db")


def test_a_config_cannot_be_changed():
    with pytest.raises(AttributeError):
        Config().workers = 2


# ---- durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1w", 604800),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("1h 30m", 5400),
        (" 0s ", 0),
    ],
)
def test_a_duration_is_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "0.5", "0"])
def test_a_duration_needs_a_unit(text):
    with pytest.raises(ConfigError, match=rf'^"{text}" needs a unit'):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", " ", "s", "-1s", "1y", "1m1h", "1s1s", "1e3s", "٣s", "1 0s", "5m\0", "1,5h", "nan"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["20000w", "9" * 400 + "s"])
def test_a_duration_longer_than_lives_is_refused(text):
    with pytest.raises(ConfigError, match="is longer than"):
        parse_duration(text)


# ---- the database


def test_the_flag_goes_before_everything(monkeypatch):
    monkeypatch.setenv("FWL_DB", "env.db")

    assert database_path("flag.db", Config(db="file.db")) == os.path.abspath("flag.db")


def test_the_environment_goes_before_the_file(monkeypatch):
    monkeypatch.setenv("FWL_DB", "env.db")

    assert database_path(None, Config(db="file.db")) == os.path.abspath("env.db")


def test_a_database_named_in_a_file_is_relative_to_its_folder(home):
    write('db = "data/jobs.db"', home / "fastworker.toml")

    assert database_path(None, load()) == str(home / "data/jobs.db")


def test_a_tilde_in_a_file_is_the_home_folder(home):
    write('db = "~/jobs.db"')

    assert database_path(None, load()) == str(home / "jobs.db")


def test_a_file_that_names_no_database_has_one_beside_it_in_a_private_folder(home):
    write("workers = 1", home / "fastworker.toml")
    old = os.umask(0)
    try:
        path = database_path(None, load())
    finally:
        os.umask(old)

    assert path == str(home / ".fastworker/fwl.db")
    assert (home / ".fastworker").stat().st_mode & 0o777 == 0o700


def test_without_a_file_the_database_is_the_users_in_private_folders(home):
    path = database_path(None, Config())

    assert path == str(home / ".local/state/fastworker/fwl.db")
    assert all((home / name).stat().st_mode & 0o777 == 0o700 for name in (".local", ".local/state/fastworker"))


def test_the_state_folder_follows_xdg(home, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))

    assert database_path(None, Config()) == str(home / "state/fastworker/fwl.db")


def test_a_user_whom_the_system_does_not_know_has_a_home_all_the_same(monkeypatch):
    def unknown(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")

    assert state_folder() == "/.local/state/fastworker"
    variables = login_environment()
    assert (variables["HOME"], variables["USER"], variables["SHELL"]) == ("/", str(os.getuid()), "/bin/sh")


def test_a_relative_xdg_folder_is_ignored(home, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "state")

    assert database_path(None, Config()) == str(home / ".local/state/fastworker/fwl.db")


@pytest.mark.parametrize("flag", ["", "  ", "a\0b", ":memory:", "file:x?mode=memory"])
def test_a_flag_that_names_no_file_is_refused(flag):
    with pytest.raises(ConfigError, match=r"^--db must be the path of a file"):
        database_path(flag, Config())


def test_a_file_in_the_way_of_the_default_folder_is_named(home):
    write("", home / ".local/state")

    with pytest.raises(
        ConfigError, match=r"/\.local/state is in the way of a folder; name the database with --db or FWL_DB"
    ):
        database_path(None, Config())
