"""The picture of a comparison: collisions against ranking, one point a preset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter
from matplotlib.transforms import Bbox

from pipeline.comparison.report import Row

# Offset in points and the label's side that faces the point, in order of preference.
_PLACES = [((x, y), "left" if x > 0 else "right") for y in (0, 9, -9, 18, -18, 27, -27)
           for x in (8, -8)]  # fmt: skip


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draws share of colliding ads against N@10, bars of one standard deviation over seeds.

    Args:
        rows: What `summarize` returned; rows with something taken away are left out.
        title: Headline.
        path: A `.png` or `.svg` file.
    """
    shown = [row for row in rows if not row["ablation"].startswith("-")]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    points = []
    for number, row in enumerate(shown):
        x, y = 100 * row["collision_share_mean"], row["ndcg@10_mean"]
        x_spread, y_spread = (row[f"{name}_std"] or 0 for name in ("collision_share", "ndcg@10"))
        color = f"C{number % 10}"
        axes.errorbar(x, y, y_spread, 100 * x_spread, fmt="o", color=color, capsize=3)
        points.append((x, y, row["row"], color))
    if points and min(x for x, *_ in points) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.margins(0.15)
    axes.set_xlabel("ads that share their codes with another, %")
    axes.set_ylabel("N@10, item level, test")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    _label(figure, axes, points)
    figure.savefig(path, dpi=150)


def _label(figure: Figure, axes: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names the points; each label takes the first place that no label or point has."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    places = [axes.transData.transform((x, y)) for x, y, *_ in points]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in places]
    for x, y, label, color in points:
        for offset, side in _PLACES:
            text = axes.annotate(
                label, (x, y), offset, textcoords="offset points", ha=side, va="center",
                fontsize=9, color=color,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            if offset == _PLACES[-1][0] or not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
