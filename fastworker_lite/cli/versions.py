"""`fwl version`: which version this is, on what it runs, and under which licences its parts are.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .. import __version__
from . import render
from .program import IS_ONE_FILE
from .session import Session

if TYPE_CHECKING:
    from importlib.metadata import PackageMetadata


class Part(NamedTuple):
    """Something that runs here."""

    name: str
    version: str
    licence: str


_PYTHON = ".".join(map(str, sys.version_info[:3]))

#: What is in the one file beside packages, Python, SQLite and OpenSSL.
_LIBRARIES = {
    "bzip2": "bzip2-1.0.6",
    "cx_Freeze": "PSF-2.0",
    "expat": "MIT",
    "freeze-core": "MIT",
    "libffi": "MIT",
    "libmpdec": "BSD-2-Clause",
    "libuuid": "BSD-3-Clause",
    "libxcrypt": "LGPL-2.1-or-later",
    "Mozilla's certificates": "MPL-2.0",
    "ncurses": "X11",
    "xz": "public domain",
    "zlib": "Zlib",
}


def version(
    context: typer.Context,
    licences: Annotated[
        bool, typer.Option("--licenses", help="List what it is made of, and under which licences.")
    ] = False,
) -> int:
    """Print the version.

    fwl version --verbose
    fwl version --licenses
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    return _put_licences(session) if licences else put_version(session)


def put_version(session: Session) -> int:
    """Print the version; with what it runs on if that is asked for, and in JSON."""
    if session.is_json:
        session.put_json(
            "fwl.version/1",
            version=__version__,
            python=_PYTHON,
            sqlite=sqlite3.sqlite_version,
            openssl=_openssl(),
            one_file=IS_ONE_FILE,
        )
        return 0
    print(f"fastworker_lite {__version__}")
    if session.is_verbose:
        print(f"Python {_PYTHON}\nSQLite {sqlite3.sqlite_version}\n{_openssl() or 'no OpenSSL'}")
    return 0


def _openssl() -> str | None:
    try:
        from _ssl import OPENSSL_VERSION  # ssl itself makes hundreds of enums
    except ImportError:
        return None
    return str(OPENSSL_VERSION)


# ---- licences


def _put_licences(session: Session) -> int:
    parts = [*packages(), *(_bundled() if IS_ONE_FILE else ())]
    if session.is_json:
        session.put_json("fwl.licenses/1", parts=[part._asdict() for part in parts])
        return 0
    names, versions = max(len(part.name) for part in parts), max(len(part.version) for part in parts)
    for part in parts:
        print(render.clean(f"{part.name:<{names}}  {part.version:<{versions}}  {part.licence}"))
    return 0


def packages() -> list[Part]:
    """All that there are in the one file; else this package, those that it needs, and those that they need."""
    from importlib.metadata import distributions

    all_said = [one.metadata for one in distributions()] if IS_ONE_FILE else _needed().values()
    parts = [Part(said["Name"], said["Version"], _licence(said)) for said in all_said]
    return sorted(parts, key=lambda part: part.name.lower())


def _needed() -> dict[str, PackageMetadata]:
    from importlib.metadata import PackageNotFoundError, metadata

    found = {}
    names = ["fastworker-lite"]
    for name in names:  # grows while it is read
        if name in found:
            continue
        with contextlib.suppress(PackageNotFoundError):  # it is not needed on this system
            found[name] = metadata(name)
            names += _requirements(found[name])
    return found


def _requirements(said: PackageMetadata) -> Iterator[str]:
    for requirement in said.get_all("Requires-Dist") or ():
        name = re.match(r"[\w.-]+", requirement)
        if name is not None and "extra ==" not in requirement:
            yield re.sub(r"[-_.]+", "-", name[0]).lower()


def _licence(said: PackageMetadata) -> str:
    classifiers = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier") or () if one.startswith("License")]
    told = said.get_all("License-Expression") or classifiers or said.get_all("License") or ["not said"]
    return ", ".join(text.splitlines()[0] for text in told)


def _bundled() -> Iterator[Part]:
    yield Part("Python", _PYTHON, "PSF-2.0")
    yield Part("SQLite", sqlite3.sqlite_version, "public domain")
    yield Part("OpenSSL", (_openssl() or "").removeprefix("OpenSSL ").partition(" ")[0], "Apache-2.0")
    yield from (Part(name, "", licence) for name, licence in _LIBRARIES.items())
