"""One line on a terminal that is written anew as things change, and is gone in the end.

Runs in: the command line.
"""

from __future__ import annotations

import os
import sys

from . import render


class LiveLine:
    """A line on stderr. Draws nothing where nobody looks, or where the terminal cannot erase."""

    def __init__(self, *, is_wanted: bool = True) -> None:
        self.is_shown = is_wanted and render.is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
        self._drawn = ""

    def draw(self, text: str) -> None:
        """Have the line say this, as far as it fits."""
        if not self.is_shown:
            return
        width = render.terminal_width(sys.stderr)
        fitting = text if width is None else render.fit(text, width - 1, sys.stderr)
        if fitting != self._drawn:
            self._write(f"\r{fitting}\x1b[K")
            self._drawn = fitting

    def erase(self) -> None:
        """Leave the place to what comes next."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = ""

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
