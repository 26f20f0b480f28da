"""The figures as a picture: throughput and latency beside the others'.

Runs in: the measuring process.
"""

from __future__ import annotations

from typing import Any

PANELS = (
    ("W1", "rate", "no-op jobs a second"),
    ("W2", "rate", "the same, durable"),
    ("W3", "p50", "submit to result, ms"),
)


def draw(document: dict[str, Any], path: str) -> None:
    """Write an SVG or PNG. Needs matplotlib: the extra `bench`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    last = {one["workload"]: one["figures"] for one in document["results"]}
    panels = [panel for panel in PANELS if panel[0] in last]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 2.6), squeeze=False)
    for axis, (workload, key, title) in zip(axes[0], panels, strict=True):
        sides = [side for side in last[workload] if side != "raw"]
        values = [last[workload][side][key] for side in sides]
        colours = ["#2a6f97" if side == "ours" else "#b8c4cc" for side in sides]
        bars = axis.barh(["fastworker_lite" if side == "ours" else side for side in sides], values, color=colours)
        axis.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:.2g}" for value in values], padding=3)
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_visible(False)
    figure.text(0.01, 0.01, document["machine"], fontsize=7, color="#666666")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path)
