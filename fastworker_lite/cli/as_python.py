"""`fwl _python`: what `python` would do, for `sys.executable -m MODULE` where fwl is one file and no Python is there.

Runs in: the command line.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

#: Options that take no value. All but those of `_SAFE_PATH` change nothing here.
_FLAGS, _SAFE_PATH = frozenset("bBdEIiOPqRsSuvx"), frozenset("IP")
_WITH_VALUE = ("-W", "-X")


class Call(NamedTuple):
    """What Python was asked to run."""

    kind: str
    #: `c` for a text, `m` for a module, `file`, or nothing.
    what: str = ""
    words: tuple[str, ...] = ()
    #: What follows.
    is_path_safe: bool = False


def read(words: list[str]) -> Call:
    """Take Python's command line apart."""
    rest, is_path_safe = list(words), False
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word.startswith(_WITH_VALUE):
            del rest[: word in _WITH_VALUE]
            continue
        for end, letter in enumerate(word[1:], 2):
            if letter in "cm":
                what = word[end:] or (rest.pop(0) if rest else "")
                return Call(letter, what, tuple(rest), is_path_safe)
            if letter not in _FLAGS:
                return Call("")
            is_path_safe = is_path_safe or letter in _SAFE_PATH
    return Call("file", rest[0], tuple(rest[1:]), is_path_safe) if rest else Call("")


def run(words: list[str]) -> None:
    """Do as Python would."""
    import runpy

    call = read(words)
    if not call.kind or not call.what:
        sys.exit(
            f"fwl _python takes what python takes: -c TEXT, -m MODULE, or FILE; got {' '.join(words) or 'nothing'}"
        )
    if not call.is_path_safe:
        sys.path.insert(0, _folder(call))
    sys.argv = [{"c": "-c", "m": "-m"}.get(call.kind, call.what), *call.words]
    if call.kind == "m":
        runpy.run_module(call.what, run_name="__main__", alter_sys=True)
    elif call.kind == "c":
        exec(compile(call.what, "<string>", "exec"), _new_main())
    elif call.what == "-":
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), _new_main())
    elif os.path.exists(call.what):
        runpy.run_path(call.what, run_name="__main__")
    else:
        sys.exit(f"fwl _python: there is no file {call.what}")


def _folder(call: Call) -> str:
    """Where Python looks for modules first."""
    if call.kind == "m":
        return os.getcwd()
    return "" if call.kind == "c" or call.what == "-" else os.path.dirname(os.path.abspath(call.what))


def _new_main() -> dict[str, object]:
    from types import ModuleType

    sys.modules["__main__"] = main = ModuleType("__main__")
    return main.__dict__
