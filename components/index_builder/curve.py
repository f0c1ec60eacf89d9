"""The picture of what an index trades: recall against speed."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_STYLES = {
    "scann": ("ScaNN", "tab:blue", "o"),
    "partitioned": ("partitioned (core ops)", "tab:orange", "s"),
    "brute_force": ("brute force", "black", "*"),
}


def draw(spaces: Mapping[str, Mapping[str, Any]], k: int, target: float) -> bytes:
    """Draws recall against queries per second of every setting that was measured.

    Args:
        spaces: The manifest's `spaces`.
        k: Neighbours that recall counts.
        target: The recall that was asked for, a line.

    Returns:
        A PNG image.
    """
    figure = Figure(figsize=(5.2 * len(spaces), 4.8), layout="constrained")
    axes = figure.subplots(1, len(spaces), squeeze=False)[0]
    for axis, (space, found) in zip(axes, spaces.items(), strict=True):
        for kind, (label, color, marker) in _STYLES.items():
            trials = [trial for trial in found["trials"] if trial["kind"] == kind]
            if trials:
                _draw_kind(axis, trials, f"recall@{k}", label, color, marker)
        axis.axvline(target, color="gray", linestyle="--", linewidth=1)
        _mark_chosen(axis, found["flavours"], f"recall@{k}")
        axis.set_yscale("log")
        axis.set_xlabel(f"recall@{k} against brute force")
        axis.set_ylabel("queries/s, one at a time")
        axis.set_title(f"{space.replace('_', ' ')}, {found['dimensions']} dimensions")
        axis.grid(alpha=0.3, which="both")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw_kind(
    axis: Any, trials: Sequence[Mapping[str, Any]], key: str, label: str, color: str, marker: str
) -> None:
    recalls = [trial[key] for trial in trials]
    speeds = [trial["queries_per_second"] for trial in trials]
    axis.scatter(recalls, speeds, color=color, marker=marker, s=22, alpha=0.6, label=label)
    # The line is what nothing else of the kind beats in both.
    front: list[tuple[float, float]] = []
    for recall, speed in sorted(zip(recalls, speeds, strict=True), reverse=True):
        if not front or speed > front[-1][1]:
            front.append((recall, speed))
    axis.plot(*zip(*front, strict=True), color=color, linewidth=1.2)


def _mark_chosen(axis: Any, flavours: Mapping[str, Mapping[str, Any]], key: str) -> None:
    for flavour, size in zip(flavours, (190, 90), strict=False):
        chosen = flavours[flavour]
        axis.scatter(
            [chosen[key]],
            [chosen["queries_per_second"]],
            s=size,
            facecolors="none",
            edgecolors="tab:red" if flavour == "portable" else "tab:purple",
            linewidths=1.6,
            label=f"served ({flavour}), on other queries",
        )
