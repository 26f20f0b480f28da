"""The shape of the house: who may import whom, who owns what, and what SQL may look like."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fastworker_lite"
SOURCES = sorted(PACKAGE.rglob("*.py"))

#: From the ground up. A module imports from its own group and from those before it. A package stands for all in it.
LAYERS = {
    "ground": "errors durations settings rules config paths forking endings tasks options limits job cron schedule payloads serialization shim",
    "edges": "interpreters pings store leases sockets streams watches current output execution processes surroundings foreign",
    "flow": "exchange batches worker async_worker pool building calls producer graph relay commands declarations firing schedules results waiting dispatching logs events hooks recovery retention changing queueing registration idleness scheduler callbacks intake reception listener",
    # What a user opens. A client starts a runner in its own process, so it stands beside the runner, not below it.
    "doors": "runner client handles sync sync_handles cli integrations freezing",
}
ORDER = list(LAYERS)
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names.split()}

#: Each outside package has one owner, a module or a folder.
OWNERS = {
    "aiosqlite": "store/bridge.py",
    "cloudpickle": "serialization.py",
    "cronsim": "cron.py",
    "typer": "cli/",
    "click": "cli/",
    "rich": "cli/",
    "fastapi": "integrations/",
    "PyInstaller": "freezing/",
}

#: Statements with constants of ours in a PRAGMA, which takes no parameters.
MAY_BUILD_SQL = {"store/create.py"}


@cache
def tree(path):
    return ast.parse(path.read_text(), str(path))


def name_of(path):
    """`store/gate.py`, as messages and tables here have it."""
    return path.relative_to(PACKAGE).as_posix()


def group_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(line, dotted module) of every import, relative ones made absolute; under TYPE_CHECKING and in functions too."""
    package = ["fastworker_lite", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "fastworker_lite":  # from . import leases: the names may be modules
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def own_imports(path):
    """(line, group) of what is imported from this package; its own public names are the group `__init__`."""
    for line, module in imports(path):
        if module == "fastworker_lite" or module.startswith("fastworker_lite."):
            group = ([*module.split("."), ""])[1]
            is_module = (PACKAGE / group).is_dir() or (PACKAGE / f"{group}.py").exists()
            yield line, group if group and is_module else "__init__"


def outside_imports(path):
    for line, module in imports(path):
        if not module.startswith("fastworker_lite"):
            yield line, module.split(".")[0]


def test_every_module_has_its_place_in_a_layer():
    unplaced = {name_of(path) for path in SOURCES if group_of(path) not in LAYER_OF} - {"__init__.py", "__main__.py"}

    assert unplaced == set()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_imports_only_from_its_own_layer_or_from_those_below(path):
    layer = LAYER_OF.get(group_of(path), "doors")

    wrong = [
        f"{name_of(path)}:{line}: {layer} imports {group} ({LAYER_OF.get(group, 'in no layer')})"
        for line, group in own_imports(path)
        if group != "__init__"
        and ORDER.index(LAYER_OF.get(group, "doors")) > ORDER.index(layer)
        and path.name != "__init__.py"
    ]

    assert wrong == []


def test_the_exceptions_import_nothing():
    assert [module for _, module in imports(PACKAGE / "errors.py") if module != "__future__"] == []


def test_the_settings_know_nothing_but_options_and_their_rules_nothing_but_settings():
    imported = {
        name: {group for _, group in own_imports(PACKAGE / f"{name}.py")} for name in ("settings", "rules", "config")
    }

    assert imported["settings"] == {"options"}
    assert imported["rules"] == {"durations", "errors", "options", "settings"}
    assert imported["config"] == {"durations", "errors", "rules", "settings"}


def test_no_two_groups_import_each_other():
    edges = {
        (group_of(path), group)
        for path in SOURCES
        for _, group in own_imports(path)
        if group not in ("__init__", group_of(path)) and path.name != "__init__.py"
    }
    # tasks/registry.py declares tasks with options, and options.py takes its words from tasks/models.py.
    # worker.py starts async_worker.py, which takes the worker's patience from it; both are one worker.
    known = {("options", "tasks"), ("worker", "async_worker")}

    both = {tuple(sorted(edge)) for edge in edges if edge[::-1] in edges}

    assert both - {tuple(sorted(edge)) for edge in known} == set()


@pytest.mark.parametrize("package", OWNERS)
def test_an_outside_package_is_imported_by_its_owner_alone(package):
    owner = OWNERS[package]

    strangers = [
        f"{name_of(path)}:{line}"
        for path in SOURCES
        for line, module in outside_imports(path)
        if module == package and not name_of(path).startswith(owner)
    ]

    assert strangers == []


def test_no_package_is_imported_that_has_no_owner():
    allowed = set(sys.stdlib_module_names) | set(OWNERS)

    strangers = {
        f"{name_of(path)}: {module}" for path in SOURCES for _, module in outside_imports(path) if module not in allowed
    }

    assert strangers == set()


def built_statements(path):
    """(line, how) of every statement for SQLite that is put together where it is run."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        if node.func.attr not in ("execute", "executemany", "executescript"):
            continue
        statement = node.args[0]
        if isinstance(statement, ast.JoinedStr) and any(
            isinstance(part, ast.FormattedValue) for part in statement.values
        ):
            yield node.lineno, "f-string"
        elif isinstance(statement, ast.BinOp):
            yield node.lineno, "+ or %"
        elif isinstance(statement, ast.Call):
            yield node.lineno, "a call, such as .format"


def test_no_statement_is_built_where_it_is_run():
    built = [
        f"{name_of(path)}:{line}: {how}"
        for path in SOURCES
        if name_of(path) not in MAY_BUILD_SQL
        for line, how in built_statements(path)
    ]

    assert built == []


def test_the_one_statement_that_is_built_holds_only_our_constants():
    (call,) = [
        node
        for node in ast.walk(tree(PACKAGE / "store" / "create.py"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "executescript"
    ]
    names = {part.value.id for part in call.args[0].values if isinstance(part, ast.FormattedValue)}

    assert names == {"schema", "APPLICATION_ID", "SCHEMA_VERSION"}


def test_the_check_for_built_statements_finds_them(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        'sql.execute(f"SELECT {x}")\nsql.executemany("SELECT %s" % x, y)\nsql.execute("SELECT " + x)\n'
        'sql.executescript("{}".format(x))\nsql.execute("SELECT ?", (x,))\nsql.execute(f"SELECT 1")\nsql.execute(NAMED)\n'
    )

    assert [line for line, _ in built_statements(path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_says_what_it_is_and_where_it_runs(path):
    text = ast.get_docstring(tree(path)) or ""
    if path.name == "__init__.py" and len(path.read_text()) < 10:
        return

    last = text.strip().splitlines()[-1] if text.strip() else ""

    assert last.startswith("Runs in: ") or path == PACKAGE / "__init__.py", f"{name_of(path)} ends with {last!r}"


def test_no_class_inherits_but_exceptions_enums_and_tuples():
    allowed = {"Exception", "Enum", "IntEnum", "StrEnum", "str", "NamedTuple", "Protocol", "Generic", "TypedDict"}
    # SpawnProcess is how multiprocessing lets its launch be changed, Pickler how cloudpickle lets a type be refused,
    # and TyperCommand and TyperGroup how typer lets options be shared and help be ordered.
    allowed |= {"SpawnProcess", "Popen", "_Popen", "Pickler", "TyperCommand", "TyperGroup"}
    errors = {node.name for node in tree(PACKAGE / "errors.py").body if isinstance(node, ast.ClassDef)}

    found = {
        f"{name_of(path)}:{node.lineno}: {node.name}({ast.unparse(base)})"
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).split("[")[0].split(".")[-1]
        not in allowed | errors | {"ValueError", "LookupError", "TimeoutError"}
    }

    assert found == set()


def loaded_after(code):
    """The modules that a fresh interpreter holds after *code*."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    return set(
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ).stdout.split()
    )


HEAVY = {
    "typer",
    "click",
    "rich",
    "aiosqlite",
    "asyncio",
    "cloudpickle",
    "cronsim",
    "multiprocessing",
    "tomllib",
    "zoneinfo",
}


@pytest.mark.parametrize(
    "code",
    [
        "import fastworker_lite",
        "from fastworker_lite import task, TaskStatus, ConfigError",
        "import fastworker_lite.config",
        "import fastworker_lite.producer",
    ],
)
def test_what_only_submits_loads_nothing_heavy(code):
    assert loaded_after(code) & HEAVY == set()
