"""A Qt window that has something rendered, shows how far it is, and stays responsive: `python qt_window.py jobs.db`."""

from __future__ import annotations

import sys
import threading

from lateness import TICK, Lateness
from PySide6.QtCore import QSocketNotifier, Qt, QTimer
from PySide6.QtWidgets import QApplication, QProgressBar
from rendering import render

from fastworker_lite import SyncClient


def main() -> None:
    application = QApplication([])
    bar, lateness, seen = QProgressBar(), Lateness(), []
    bar.show()
    timer = QTimer(timerType=Qt.TimerType.PreciseTimer, interval=int(TICK * 1000))
    timer.timeout.connect(lateness.tick)
    timer.start()

    def show_progress(job, progress) -> None:
        seen.append(progress.done)
        bar.setMaximum(int(progress.total))
        bar.setValue(int(progress.done))

    def show_result(job) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        print("result", job.result(), "on the main thread" if is_main else "elsewhere")
        print("progress", *seen)
        print("timer:", lateness.report())
        application.quit()

    with SyncClient(sys.argv[1], workers=2) as client:
        notifier = QSocketNotifier(client.fileno(), QSocketNotifier.Type.Read)
        notifier.activated.connect(lambda *_: client.dispatch())
        job = client.submit(render, 50, 0.02)
        job.on_progress(show_progress)
        job.on_done(show_result)
        application.exec()
        notifier.setEnabled(False)


if __name__ == "__main__":
    main()
