"""What becomes of our open descriptors in a forked child: they are closed there, at once.

A lock taken with flock belongs to the open file description, which a fork shares: were the child to keep a copy, the
lock would outlive its owner.

Runs in: every process.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ClosesInChild(Protocol):
    def close_in_child(self) -> None:
        """Let go of every descriptor without telling anybody; called in a forked child, before anything else runs."""


_open: weakref.WeakSet[ClosesInChild] = weakref.WeakSet()


def close_in_forked_children(resource: ClosesInChild) -> None:
    """Have *resource* closed in every child that this process forks from now on, as long as it lives."""
    _open.add(resource)


def _close_all_in_child() -> None:
    for resource in list(_open):
        resource.close_in_child()
    _open.clear()


os.register_at_fork(after_in_child=_close_all_in_child)
