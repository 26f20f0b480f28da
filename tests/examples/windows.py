"""What the tests expect of the windows beside this."""

from __future__ import annotations

import re


def check_window(name: str, said: str, complaints: str) -> None:
    """It has shown progress and results, on its main thread, and its timer was hardly late."""
    print(f"{name}: {said}")
    assert complaints == ""
    assert "film 50 frames\n" in said and "pictures 2000 threads MainThread\n" in said
    (shown,) = re.findall(r"^progress (.*)", said, re.M)
    frames = [float(word) for word in shown.split()]
    assert len(frames) >= 3 and frames == sorted(frames) and frames[-1] == 50
    (ticks, p99) = re.findall(r"timer: (\d+) ticks, p99 ([\d.]+) ms", said)[0]
    assert int(ticks) > 20 and float(p99) < 200
