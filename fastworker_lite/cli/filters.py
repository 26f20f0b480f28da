"""The options that narrow down the jobs a command is about; selecting.py reads what was given.

Runs in: the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperOption

from .session import Session

#: By the flags: what it is called in `Session.filters`, and what help says.
_FILTERS = {
    "--state": ("states", "STATE", "Only jobs in this state; may be repeated."),
    "--queue/-Q": ("queue", "NAME", "Only jobs of this queue."),
    "--name": ("name", "GLOB", "Only jobs that are called so: 'backup-*'."),
    "--tag": ("tags", "K=V", "Only jobs with this tag; may be repeated."),
    "--since": ("since", "DUR", "Only jobs submitted within this time."),
    "--all/-a": ("everything", None, "All jobs for which that can be done."),
}
_REPEATED = {"states", "tags"}


def options(taken: set[str]) -> list[Any]:
    """The filters as the parser has them, without those whose flags the command has *taken* for itself."""
    return [
        _option(flags.split("/"), *rest) for flags, rest in _FILTERS.items() if not taken.intersection(flags.split("/"))
    ]


def _option(flags: list[str], key: str, metavar: str | None, text: str) -> Any:
    kind: dict[str, Any] = {"is_flag": True, "default": False} if metavar is None else {"metavar": metavar}
    return TyperOption(
        param_decls=flags, multiple=key in _REPEATED, expose_value=False, callback=_store_as(key), help=text, **kind
    )


def _store_as(key: str) -> Callable[[typer.Context, Any, Any], None]:
    def store(context: typer.Context, _: Any, value: Any) -> None:
        if value:
            context.find_object(Session).filters[key] = value  # type: ignore[union-attr]

    return store
