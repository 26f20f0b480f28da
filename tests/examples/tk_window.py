"""A Tk window that has a film rendered and pictures shrunk, shows how far that is, and stays responsive.

`python tk_window.py jobs.db [FRAMES]`
"""

from __future__ import annotations

from fastworker_lite import freeze_support

freeze_support()  # what follows is not for workers

import os
import sys
import threading
import tkinter
from tkinter import ttk

from lateness import TICK, Lateness
from rendering import render, shrink

from fastworker_lite import SyncClient

print("body", os.getpid(), flush=True)

PICTURES = 2000


def summed(numbers: list[int]) -> int:
    """A task of the program itself."""
    return sum(numbers)


class Window:
    def __init__(self, client: SyncClient, frames: int) -> None:
        self.client = client
        self.root = tkinter.Tk()
        self.bar = ttk.Progressbar(self.root, length=300, maximum=frames)
        self.bar.pack()
        self.label = ttk.Label(self.root)
        self.label.pack()
        self.lateness = Lateness()
        self.frames, self.total = frames, 0
        self.shown: list[float] = []
        self.shrunk: set[int] = set()
        self.threads: set[threading.Thread] = set()
        self.root.createfilehandler(client, tkinter.READABLE, lambda *_: client.dispatch())
        self.root.after(int(TICK * 1000), self.tick)

    def tick(self) -> None:
        self.lateness.tick()
        self.label.configure(text=f"{len(self.shrunk)} pictures")  # not for each: no eye is that quick
        self.root.after(int(TICK * 1000), self.tick)

    def submit(self) -> None:
        """On a thread of its own: to store thousands of jobs takes longer than a window may stand still."""
        film = self.client.submit(render, self.frames, 0.02)
        film.on_progress(self.show_progress)
        film.on_done(self.show_film)
        for picture in self.client.map(shrink, range(PICTURES)):
            picture.on_done(self.show_picture)

    def show_progress(self, job, progress) -> None:
        self.threads.add(threading.current_thread())
        self.shown.append(progress.done)
        self.bar.configure(value=progress.done)

    def show_picture(self, job) -> None:
        self.threads.add(threading.current_thread())
        self.shrunk.add(job.result())
        self.end_if_done()

    def show_film(self, job) -> None:
        print("film", job.result(), flush=True)
        self.client.submit(summed, [20, 22]).on_done(self.show_sum)

    def show_sum(self, job) -> None:
        self.threads.add(threading.current_thread())
        self.total = job.result()
        self.end_if_done()

    def end_if_done(self) -> None:
        if self.total and len(self.shrunk) == PICTURES:
            self.root.deletefilehandler(self.client)
            self.root.destroy()

    def report(self) -> None:
        print("sum", self.total, "pictures", len(self.shrunk), "threads", *(thread.name for thread in self.threads))
        print("progress", *self.shown)
        print("timer:", self.lateness.report(), flush=True)


def main() -> None:
    with SyncClient(sys.argv[1], workers=2) as client:
        window = Window(client, frames=int(sys.argv[2]) if len(sys.argv) > 2 else 50)
        threading.Thread(target=window.submit).start()
        window.root.mainloop()
        window.report()


if __name__ == "__main__":
    main()
