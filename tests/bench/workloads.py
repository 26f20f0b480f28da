"""What is measured, against whom, and what ours has to reach.

Runs in: the measuring process.
"""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """What one figure of ours is held to."""

    figure: str
    #: The key of the figure that the sides print.
    against: str | None
    #: A side; None for a fixed bound.
    factor: float
    #: Ours / theirs for rates, the bound itself without a side.
    is_most: bool = False
    #: Whether ours must be at most that (times, seconds, MiB), not at least.

    @property
    def text(self) -> str:
        sign = "≤" if self.is_most else "≥"
        return f"{sign} {self.factor:g}" + (f" × {self.against}" if self.against else "")


class Workload(NamedTuple):
    """One row of the table."""

    name: str
    title: str
    figure: str
    #: The figure that is shown.
    unit: str
    sizes: tuple[int, int]
    #: A small one, and the one that counts.
    sides: tuple[str, ...]
    targets: tuple[Target, ...]

    @property
    def quick(self) -> int:
        return max(1, self.sizes[0] // 10) if self.sizes[0] > 100 else self.sizes[0]


WORKLOADS = (
    Workload(
        "W1", "drain no-ops, durability normal", "rate", "/s", (2_000, 20_000), ("ours", "huey", "potatoq", "pool", "huey:W1nosync"),
        (Target("rate", "huey", 10), Target("rate", "potatoq", 10), Target("rate", "pool", 2)),
    ),
    Workload("W2", "drain no-ops, durability full", "rate", "/s", (2_000, 20_000), ("ours", "huey"), (Target("rate", "huey", 5),)),
    Workload(
        "W3", "submit to result, SyncClient, normal", "p50", "ms", (200, 1_000), ("ours", "huey", "potatoq", "pool"),
        (Target("p50", "pool", 2, True), Target("p99", None, 5, True)),
    ),
    Workload("W3full", "submit to result, SyncClient, full", "p50", "ms", (200, 1_000), ("ours", "pool:W3"), (Target("p50", "pool", 5, True),)),
    Workload("W3async", "submit to result, Client, normal", "p50", "ms", (200, 1_000), ("ours", "pool:W3"), (Target("p50", "pool", 3, True),)),
    Workload("W3asyncfull", "submit to result, Client, full", "p50", "ms", (200, 1_000), ("ours", "pool:W3"), (Target("p50", "pool", 8, True),)),
    Workload(
        "W4", "await delay() one after another, normal", "rate", "/s", (500, 5_000), ("ours", "raw", "huey", "potatoq"),
        (Target("rate", "raw", 0.6), Target("rate", "huey", 1.5), Target("rate", "potatoq", 1.5)),
    ),
    Workload(
        "W4full", "delay() 1,000 at once, full", "rate", "/s", (2_000, 10_000), ("ours", "huey"),
        (Target("rate", None, 10_000), Target("rate", "huey", 4)),
    ),
    Workload("W5", "map of 100,000", "rate", "/s", (10_000, 100_000), ("ours", "raw"), (Target("rate", "raw", 0.5),)),
    Workload("W6", "drain beside a backlog", "rate", "/s", (1_000, 1_000_000), ("ours",), ()),
    Workload("W7", "delay() at 200/s beside a drain", "p99", "ms", (400, 2_000), ("ours",), (Target("p99", None, 50, True), Target("max", None, 250, True))),
    Workload("W8short", "jobs of 1 ms, share of the ideal", "share", "", (200, 2_000), ("ours",), (Target("share", None, 0.85),)),
    Workload("W8long", "jobs of 50 ms, share of the ideal", "share", "", (40, 200), ("ours",), (Target("share", None, 0.97),)),
    Workload("W9", "coroutines that sleep 0.5 s", "seconds", "s", (200, 2_000), ("ours",), (Target("seconds", None, 5, True),)),
    Workload("W10", "idle, CPU of all processes", "percent", "%", (5, 60), ("ours",), (Target("percent", None, 0.1, True), Target("switches", None, 1, True))),
    Workload("W11", "memory of runner and workers", "mib", "MiB", (5_000, 200_000), ("ours",), (Target("mib", None, 80, True), Target("growth", None, 1.1, True))),
    Workload("W12", "cold start to first result", "ms", "ms", (3, 9), ("ours",), (Target("ms", None, 400, True),)),
    Workload("W13submit", "fwl submit -- true, CPU of an empty typer app", "times", "×", (5, 21), ("ours",), (Target("times", None, 1.25, True),)),
    Workload("W13status", "fwl status, CPU of an empty typer app", "times", "×", (5, 21), ("ours",), (Target("times", None, 1.25, True),)),
    Workload("W14", "shell jobs: true", "rate", "/s", (100, 1_000), ("ours", "xargs"), (Target("rate", "xargs", 0.7),)),
    Workload("W15", "schedules due at once", "seconds", "s", (1_000, 10_000), ("ours",), (Target("seconds", None, 1, True),)),
)  # fmt: skip
