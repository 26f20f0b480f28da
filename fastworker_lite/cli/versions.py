"""`fwl version`: which version this is, on what it runs, and under which licences its parts are.

Runs in: the command line.
"""

from __future__ import annotations

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
    "cx_Freeze": "MIT",
    "expat": "MIT",
    "libcrypt": "LGPL-2.1-or-later",
    "libffi": "MIT",
    "liblzma": "public domain",
    "libuuid": "BSD-3-Clause",
    "Mozilla's certificates": "MPL-2.0",
    "ncurses": "X11",
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
    parts = [*_packages(), *(_bundled() if IS_ONE_FILE else ())]
    if session.is_json:
        session.put_json("fwl.licenses/1", parts=[part._asdict() for part in parts])
        return 0
    names, versions = max(len(part.name) for part in parts), max(len(part.version) for part in parts)
    for part in parts:
        print(render.clean(f"{part.name:<{names}}  {part.version:<{versions}}  {part.licence}"))
    return 0


def _packages() -> list[Part]:
    """This package, and those that it needs, and those that they need."""
    from importlib.metadata import PackageNotFoundError, metadata

    found: dict[str, Part] = {}
    names = ["fastworker-lite", *(["tzdata"] if IS_ONE_FILE else [])]
    for name in names:  # grows while it is read
        if name in found:
            continue
        try:
            said = metadata(name)
        except PackageNotFoundError:  # not needed on this system
            continue
        found[name] = Part(said["Name"], said["Version"], _licence(said))
        names += _requirements(said)
    return sorted(found.values(), key=lambda part: part.name.lower())


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
