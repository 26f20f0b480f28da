"""Build `fwl` as one file: for machines without Python (dist/fwl), or smaller, for those with one (dist/fwl.pyz).

    python -m pip install -e '.[binary]'
    python .ci/build_binary.py --out dist/
    python .ci/build_binary.py --out dist/ --format pyz

The first is a shell script, `one_file.sh`, and behind it what cx_Freeze made, as tar.gz. The Python in it is that of the
wheel of freeze-core, which needs no more than glibc 2.17; the standard library is that of the Python that runs this.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import io
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
STDLIB = Path(sysconfig.get_path("stdlib"))

#: Python's own tests and tools, and what needs a display.
LEFT_OUT = {"test", "tests", "idlelib", "turtledemo", "turtle", "tkinter", "ensurepip", "site-packages", "lib-dynload"}
#: What they need, and what links readline or gdbm, whose licence is the GPL.
LEFT_OUT_NATIVE = {"_tkinter", "readline", "_gdbm", "_dbm"}
PACKAGES = ["fastworker_lite", "rich", "typer", "aiosqlite", "cloudpickle", "cronsim", "tzdata"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Build fwl as one file.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder for it")
    parser.add_argument("--format", choices=["binary", "pyz"], default="binary")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    out = wanted.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        made = build_pyz(out) if wanted.format == "pyz" else build_binary(Path(folder), out)
    print(f"{made}: {made.stat().st_size / 1e6:.1f} MB")


# ---- with its own Python


def build_binary(folder: Path, out: Path) -> Path:
    bundle = folder / "bundle"
    freeze(bundle)
    add_standard_library(bundle / "lib")
    shutil.copy(ROOT / "fastworker_lite" / "shim.py", bundle / "lib" / "fastworker_lite")  # other Pythons run its text
    add_licences(bundle)
    return put_together(pack(bundle), out / "fwl")


def freeze(bundle: Path) -> None:
    """The program, the packages that it needs, and every module of Python that is in C."""
    from cx_Freeze import Executable, Freezer

    sys.path.insert(0, str(ROOT))
    Freezer(
        [Executable(str(HERE / "one_file_main.py"), target_name="fwl")],
        packages=PACKAGES,
        includes=[name for name in sorted(sys.stdlib_module_names - LEFT_OUT_NATIVE) if is_native(name)],
        excludes=sorted(LEFT_OUT | LEFT_OUT_NATIVE | not_needed()),
        bin_includes=["libz.so"],  # every desktop has it, the smallest servers do not
        replace_paths=[("*", "")],
        target_dir=bundle,
        compress=False,
        silent=1,
    ).freeze()


def not_needed() -> set[str]:
    """What else is installed here: some of it would be taken for what our packages may import."""
    from fastworker_lite.cli.versions import packages

    needed = {part.name for part in packages()} | {"tzdata"}
    return {module for module, names in packages_distributions().items() if needed.isdisjoint(names)}


def is_native(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and (spec.origin or "").endswith(".so")


def add_standard_library(lib: Path) -> None:
    """All of it that is not in C, and as it is: jobs may import anything, and cx_Freeze changes some modules."""
    for source in sorted(STDLIB.rglob("*")):
        path = source.relative_to(STDLIB)
        if not LEFT_OUT.isdisjoint([*path.parts, path.stem]):
            continue
        if source.suffix == ".py":
            py_compile.compile(
                str(source), str(lib / path.with_suffix(".pyc")), str(path), doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
        elif source.suffix in (".txt", ".css", ".pickle") and len(path.parts) > 1:
            (lib / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, lib / path)


def add_licences(bundle: Path) -> None:
    """All that each package says of itself, with the text of its licence; and Python's."""
    for copied in (bundle / "lib").glob("*.dist-info"):
        for file in distribution(copied.name.split("-")[0]).files or ():
            if file.parts[0].endswith(".dist-info") and file.name != "direct_url.json":
                target = copied.joinpath(*file.parts[1:])
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), target)
    shutil.copy(STDLIB / "LICENSE.txt", bundle / "share" / "python-license.txt")


def pack(bundle: Path) -> bytes:
    """A tar.gz whose bytes depend on nothing but what is in it."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(bundle.rglob("*")):
            entry = tar.gettarinfo(str(path), str(path.relative_to(bundle)))
            entry.mode = 0o700 if entry.isdir() or entry.mode & 0o100 else 0o600
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            tar.addfile(entry, io.BytesIO(path.read_bytes()) if entry.isreg() else None)
    return packed.getvalue()


def put_together(packed: bytes, path: Path) -> Path:
    script = (HERE / "one_file.sh").read_text()
    script = script.replace("@HASH@", hashlib.sha256(packed).hexdigest()[:16])
    script = script.replace("@FIRST@", str(script.count("\n") + 1))
    new = path.with_name(path.name + ".new")
    new.write_bytes(script.encode() + packed)
    new.chmod(0o755)
    return new.replace(path)  # the one that is there may be running


# ---- for a Python that is there


def build_pyz(out: Path) -> Path:
    made = out / "fwl.pyz"
    subprocess.run(
        [
            sys.executable, "-m", "shiv", "--compressed", "--reproducible", "--console-script", "fwl",
            "--python", "/usr/bin/env python3", "--output-file", str(made), "--quiet", str(ROOT),
        ],
        check=True,
    )  # fmt: skip
    return made


if __name__ == "__main__":
    main()
