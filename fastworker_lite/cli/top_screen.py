"""The terminal while `fwl top` has it: keys come one by one, the whole screen is drawn, and all is as before at the end.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..sockets import wait_readable
from ..watches import watch_process
from .signals import ENDING, Signals

if TYPE_CHECKING:
    from rich.text import Text

#: What terminals send for keys that are no characters.
_NAMES = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down",
    b"\x03": "ctrl-c", b"\x1a": "ctrl-z", b"\x1c": "ctrl-c", b"\x04": "q",
}  # fmt: skip
_KEY = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|[^\x1b]")
#: Seconds within which the rest of what a key sends comes.
_REST = 0.1
#: So that less neither ends by itself nor leaves our screen on top of it, whatever LESS says.
_PAGER = ("-+F", "-+E", "-+e", "-+X")


class Screen:
    """Drawn upon while it lasts."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(force_terminal=True, highlight=False, markup=False, emoji=False)
        self._context = self._console.screen(hide_cursor=True)
        self._input = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._input)
        self._signals = Signals()
        self._rest = b""
        self.ended_by: int | None = None
        #: The signal that asked for the end.

    def __enter__(self) -> Screen:
        self._signals.__enter__()
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal itself may be gone
            self._give_back()
        self._signals.__exit__()

    def _take(self) -> None:
        modes: list[Any] = list(self._before)
        modes[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)  # ^Z must not leave our screen to the shell
        termios.tcsetattr(self._input, termios.TCSADRAIN, modes)
        self._context.__enter__()

    def _give_back(self) -> None:
        try:
            self._context.__exit__(None, None, None)
        finally:
            termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)

    @contextlib.contextmanager
    def _lent(self) -> Iterator[None]:
        """For a while, the terminal is another program's."""
        self._give_back()
        try:
            yield
        finally:
            self._take()
            self._note(self._signals.take(), ending=(signal.SIGTERM, signal.SIGHUP))  # ^C was for the other one

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines. Raises `OSError` when the terminal is gone."""
        size = os.get_terminal_size(sys.stdout.fileno())
        return size.columns or 80, size.lines or 24

    def draw(self, lines: Sequence[Text]) -> None:
        """Have the screen hold these lines."""
        from rich.console import Group

        try:
            self._console.size = self.size
            self._context.update(Group(*lines))
        except OSError:
            self.ended_by = signal.SIGHUP  # there is no terminal any more

    def wait(self, seconds: float) -> list[str]:
        """The keys that were pressed; none after so long, when the window has another size, or when all is to end."""
        ready = wait_readable([self._input, self._signals.fileno()], min(seconds, _REST) if self._rest else seconds)
        self._note(self._signals.take())
        if self._input not in ready:
            is_escape, self._rest = self._rest == b"\x1b", b""  # and nothing came that belongs to it
            return ["escape"] if is_escape else []
        try:
            data = os.read(self._input, 1024)
        except OSError:
            data = b""
        if not data:
            self.ended_by = signal.SIGHUP
        return self._keys(data)

    def _note(self, arrived: Sequence[int], ending: Sequence[int] = ENDING) -> None:
        self.ended_by = next((number for number in arrived if number in ending), self.ended_by)

    def _keys(self, data: bytes) -> list[str]:
        data = self._rest + data
        found = list(_KEY.finditer(data))
        rest = data[found[-1].end() if found else 0 :]
        self._rest = rest if len(rest) < 16 else b""
        return [_NAMES.get(key[0]) or key[0].decode(errors="replace") for key in found]

    # ---- while others have it

    def suspend(self) -> None:
        """Stop, with everything that the shell has started with us, until the shell lets it go on."""
        with self._lent():
            os.kill(0, signal.SIGTSTP)

    def page(self, command: Sequence[str]) -> None:
        """Show what *command* prints in a pager if there is one, until a person has seen enough."""
        with self._lent():
            pager = shutil.which("less")
            if pager is None:
                subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
                print("-- Enter to go back --", end="", flush=True)
                if wait_readable([self._input, self._signals.fileno()], None)[0] == self._input:
                    os.read(self._input, 1024)
                return
            # A group of its own: ^C is for the pager.
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
            ) as source:
                assert source.stdout is not None
                with subprocess.Popen([pager, *_PAGER], stdin=source.stdout) as reader:
                    source.stdout.close()
                    self._wait_for(reader)
                source.terminate()

    def _wait_for(self, reader: subprocess.Popen[bytes]) -> None:
        """Wait until it has ended; what ends us ends it."""
        watch = watch_process(reader.pid)
        if watch is None:
            return
        try:
            while watch not in wait_readable([watch, self._signals.fileno()], None):
                self._note(self._signals.take(), ending=(signal.SIGTERM, signal.SIGHUP))
                if self.ended_by is not None:
                    reader.terminate()
                    return
        finally:
            os.close(watch)
