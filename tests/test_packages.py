"""What is published, and what it says of itself: the wheel, the sdist, and `fwl version`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from fastworker_lite.cli.as_python import Call, read

ROOT = Path(__file__).resolve().parent.parent
needs_tools = pytest.mark.skipif(
    find_spec("build") is None or find_spec("twine") is None or find_spec("shiv") is None,
    reason="the tools are not here: pip install -e '.[binary]'",
)
Result = subprocess.CompletedProcess[str]


def run(*words: str, folder: Path, **variables: str) -> Result:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FWL_", "PYTHONPATH"))}
    home = {"HOME": str(folder), "FWL_DB": str(folder / "fwl.db")}
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder, env=kept | home | variables,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, made of a copy of the tree."""
    folder = tmp_path_factory.mktemp("packages")
    tree = folder / "tree"
    shutil.copytree(ROOT / "fastworker_lite", tree / "fastworker_lite", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    made = run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(tree), folder=folder
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder / "dist"


@needs_tools
def test_the_wheel_and_the_sdist_hold_all_that_is_needed(packages: Path, tmp_path: Path) -> None:
    [wheel], [sdist] = packages.glob("*.whl"), packages.glob("*.tar.gz")

    with zipfile.ZipFile(wheel) as inside:
        assert {f"fastworker_lite/{name}" for name in ("py.typed", "store/schema.sql", "shim.py")} <= set(
            inside.namelist()
        )
    with tarfile.open(sdist) as inside:
        names = {name.partition("/")[2] for name in inside.getnames()}
    assert {"LICENSE", "README.md", "fastworker_lite/py.typed", "fastworker_lite/store/schema.sql"} <= names
    checked = run(sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist), folder=tmp_path)
    assert checked.returncode == 0, checked.stdout


@needs_tools
def test_fwl_starts_from_the_wheel_without_unpacking_it(packages: Path, tmp_path: Path) -> None:
    [wheel] = packages.glob("*.whl")
    script = "import sys; sys.path.insert(0, sys.argv.pop(1)); from fastworker_lite.cli.main import main; main()"

    result = run(sys.executable, "-P", "-c", script, str(wheel), "run", "--", "echo", "done", folder=tmp_path)

    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


@needs_tools
def test_fwl_works_through_a_link_to_an_environment_as_uv_and_pipx_make_it(packages: Path, tmp_path: Path) -> None:
    [wheel] = packages.glob("*.whl")
    environment, link = tmp_path / "environment", tmp_path / "fwl"
    for words in (
        ["venv", "--without-pip", str(environment)],
        ["pip", "--python", str(environment), "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
    ):
        assert run(sys.executable, "-m", *words, folder=tmp_path).returncode == 0
    [found] = environment.glob("lib/python*/site-packages")
    (found / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    link.symlink_to(environment / "bin" / "fwl")

    result = run(str(link), "run", "--", "echo", "done", folder=tmp_path)
    unit = run(str(link), "service", "install", "--print", folder=tmp_path).stdout

    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    assert f"\nExecStart={environment}/bin/python -m fastworker_lite worker " in unit


@needs_tools
def test_a_pyz_runs_jobs_and_knows_how_it_is_started(tmp_path: Path) -> None:
    made = run(
        sys.executable, str(ROOT / ".ci/build_binary.py"), "--format", "pyz", "--out", str(tmp_path), folder=tmp_path
    )
    assert made.returncode == 0, made.stderr
    pyz = tmp_path / "fwl.pyz"
    assert pyz.stat().st_size < 5_000_000

    run(sys.executable, str(pyz), "submit", "--", "true", folder=tmp_path)
    assert run(sys.executable, str(pyz), "drain", folder=tmp_path).returncode == 0
    words = run(sys.executable, str(pyz), "service", "install", "--cron", folder=tmp_path).stdout.split()

    assert words[5:8] == [sys.executable, str(pyz), "drain"]


def test_the_version_is_told_with_what_it_runs_on(tmp_path: Path) -> None:
    fwl = [sys.executable, "-m", "fastworker_lite"]

    plain = run(*fwl, "--version", folder=tmp_path, PYTHONPATH=str(ROOT)).stdout
    long = run(*fwl, "--version", "--verbose", folder=tmp_path, PYTHONPATH=str(ROOT)).stdout.splitlines()

    assert plain == f"{long[0]}\n"
    assert [line.split()[0] for line in long[1:3]] == ["Python", "SQLite"]


def test_the_licences_of_all_parts_are_told(tmp_path: Path) -> None:
    fwl = [sys.executable, "-m", "fastworker_lite", "version", "--licenses"]

    parts = json.loads(run(*fwl, "--json", folder=tmp_path, PYTHONPATH=str(ROOT)).stdout)["parts"]
    lines = run(*fwl, folder=tmp_path, PYTHONPATH=str(ROOT)).stdout.splitlines()

    assert {"name": "rich", "version": version("rich"), "licence": "MIT License"} in parts
    assert {"name": "fastworker-lite", "version": version("fastworker-lite"), "licence": "MIT"} in parts
    assert [line.split()[0] for line in lines] == [part["name"] for part in parts]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("-m json.tool a", Call("m", "json.tool", ("a",))),
        ("-mjson.tool -x", Call("m", "json.tool", ("-x",))),
        ("-B -I -c print() 1", Call("c", "print()", ("1",), True)),
        ("-Bc print()", Call("c", "print()")),
        ("-W error -Xutf8 -X dev file.py -m", Call("file", "file.py", ("-m",))),
        ("-", Call("file", "-")),
        ("-h", Call("")),
        ("--db x status", Call("")),
        ("-V", Call("")),
        ("", Call("")),
    ],
)
def test_words_for_python_are_read_as_python_reads_them(words: str, call: Call) -> None:
    assert read(words.split()) == call


TELL = "import sys; print(__name__, sys.argv, repr(sys.path[0]))"


@pytest.mark.parametrize(
    "words", [["-c", TELL, "-m"], ["-m", "tell", "a"], ["tell.py", "a"], ["-", "a"], ["-Pc", TELL]]
)
def test_what_python_would_run_is_run_as_python_would_run_it(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL)
    ours = f"import sys; from fastworker_lite.cli import as_python; sys.path.pop(0); as_python.run({words!r})"

    told, expected = (
        subprocess.run(
            [sys.executable, *one], input=TELL, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True,
            text=True, check=False,
        )
        for one in (["-c", ours], words)
    )  # fmt: skip

    assert (told.stdout, told.stderr) == (expected.stdout, expected.stderr)
    assert told.stdout
