"""A Qt window that has a film rendered and pictures shrunk, shows how far that is, and stays responsive.

`python qt_window.py jobs.db`
"""

from __future__ import annotations

import sys
import threading

from lateness import TICK, Lateness
from PySide6.QtCore import QSocketNotifier, Qt, QTimer
from PySide6.QtWidgets import QApplication, QLabel, QProgressBar
from rendering import render, shrink

from fastworker_lite import SyncClient

FRAMES, PICTURES = 50, 2000


def main() -> None:
    application = QApplication([])
    bar, label, lateness = QProgressBar(maximum=FRAMES), QLabel(), Lateness()
    shown, shrunk, threads = [], set(), set()
    bar.show()
    label.show()
    timer = QTimer(timerType=Qt.TimerType.PreciseTimer, interval=int(TICK * 1000))

    def tick() -> None:
        lateness.tick()
        label.setText(f"{len(shrunk)} pictures")  # not for each: no eye is that quick

    def submit() -> None:
        """On a thread of its own: to store thousands of jobs takes longer than a window may stand still."""
        film = client.submit(render, FRAMES, 0.02)
        film.on_progress(show_progress)
        film.on_done(show_film)
        for picture in client.map(shrink, range(PICTURES)):
            picture.on_done(show_picture)

    def show_progress(job, progress) -> None:
        threads.add(threading.current_thread())
        shown.append(progress.done)
        bar.setValue(int(progress.done))

    def show_picture(job) -> None:
        threads.add(threading.current_thread())
        shrunk.add(job.result())
        quit_if_done()

    def show_film(job) -> None:
        threads.add(threading.current_thread())
        print("film", job.result())
        quit_if_done()

    def quit_if_done() -> None:
        if len(shrunk) == PICTURES and FRAMES in shown:
            application.quit()

    with SyncClient(sys.argv[1], workers=2) as client:
        notifier = QSocketNotifier(client.fileno(), QSocketNotifier.Type.Read)
        notifier.activated.connect(lambda *_: client.dispatch())
        timer.timeout.connect(tick)
        timer.start()
        threading.Thread(target=submit).start()
        application.exec()
        notifier.setEnabled(False)
    print("pictures", len(shrunk), "threads", *(thread.name for thread in threads))
    print("progress", *shown)
    print("timer:", lateness.report())


if __name__ == "__main__":
    main()
