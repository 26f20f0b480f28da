"""What the windows of these examples have done by worker processes."""

from __future__ import annotations

import time

from fastworker_lite import current_job


def render(frames: int, seconds: float) -> str:
    """Keep a core busy for a while, and say how far that is."""
    for frame in range(frames):
        _be_busy(seconds)
        current_job().progress(frame + 1, frames, f"frame {frame + 1}")
    return f"{frames} frames"


def shrink(picture: int) -> int:
    """A small job, as there are thousands of."""
    _be_busy(0.0005)
    return picture


def _be_busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
