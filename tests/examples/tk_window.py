"""A Tk window that has something rendered, shows how far it is, and stays responsive: `python tk_window.py jobs.db`."""

from __future__ import annotations

from fastworker_lite import freeze_support

freeze_support()  # what follows is not for workers

import os
import sys
import threading
import tkinter
from tkinter import ttk

from lateness import TICK, Lateness
from rendering import render

from fastworker_lite import SyncClient

print("body", os.getpid(), flush=True)


def summed(numbers: list[int]) -> int:
    """A task of the program itself."""
    return sum(numbers)


class Window:
    def __init__(self, client: SyncClient) -> None:
        self.client = client
        self.root = tkinter.Tk()
        self.bar = ttk.Progressbar(self.root, length=300)
        self.bar.pack()
        self.label = ttk.Label(self.root, text="rendering")
        self.label.pack()
        self.lateness = Lateness()
        self.seen: list[float] = []
        self.root.createfilehandler(client, tkinter.READABLE, lambda *_: client.dispatch())
        self.root.after(int(TICK * 1000), self.tick)

    def tick(self) -> None:
        self.lateness.tick()
        self.root.after(int(TICK * 1000), self.tick)

    def start(self, frames: int) -> None:
        job = self.client.submit(render, frames, 0.02)
        job.on_progress(self.show_progress)
        job.on_done(self.show_result)

    def show_progress(self, job, progress) -> None:
        self.seen.append(progress.done)
        self.bar.configure(maximum=progress.total, value=progress.done)
        self.label.configure(text=progress.note)

    def show_result(self, job) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        print("result", job.result(), "on the main thread" if is_main else "elsewhere", flush=True)
        self.client.submit(summed, [20, 22]).on_done(self.end)

    def end(self, job) -> None:
        print("sum", job.result())
        print("progress", *self.seen)
        print("timer:", self.lateness.report(), flush=True)
        self.root.deletefilehandler(self.client)
        self.root.destroy()


def main() -> None:
    with SyncClient(sys.argv[1], workers=2) as client:
        window = Window(client)
        window.start(frames=int(sys.argv[2]) if len(sys.argv) > 2 else 50)
        window.root.mainloop()


if __name__ == "__main__":
    main()
