"""What a person at the terminal reads while a run goes and when it ends."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from pipeline.local_runner import Stage
from pipeline.run import Summary

_NAME_WIDTH = 19


class ConsoleReporter:
    """Prints one line per stage: name, seconds, what it made."""

    def __init__(self, console: Console):
        self._console = console
        self._status: Status | None = None

    def started(self, name: str) -> None:
        """Shows the running stage where the terminal can."""
        if self._console.is_terminal:
            self._status = self._console.status(f"{name} ...")
            self._status.start()

    def finished(self, stage: Stage, line: str) -> None:
        """Prints the stage's line."""
        if self._status:
            self._status.stop()
        seconds = "cached" if stage.cached else f"{stage.seconds:6.1f} s"
        mark = "[red]x[/red]" if stage.error else "[green]+[/green]"
        self._console.print(
            f"{mark} {stage.name:<{_NAME_WIDTH}} {seconds:>8}  {escape(line)}",
            soft_wrap=True,
            highlight=False,
        )


def figure(value: float) -> str:
    """A count in full, anything else in four digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def metrics_table(metrics: dict[str, float]) -> Table:
    """The held-out metrics of the pushed servable, an interval in the row of its metric."""
    table = Table(title="What was measured", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95% interval")
    ends = {f"{name}_{end}" for name in metrics for end in ("low", "high")}
    for name, value in sorted(metrics.items()):
        if name not in ends:
            found = [metrics[end] for end in (f"{name}_low", f"{name}_high") if end in metrics]
            table.add_row(name, figure(value), " to ".join(map(figure, found)))
    return table


def print_outcome(console: Console, summary: Summary, command: str) -> None:
    """Says where everything lies and what to try next, or what was refused and why."""
    console.print(
        f"\n{len(summary.stages)} stages in {summary.total_seconds:.0f} s, "
        f"peak memory {summary.peak_rss_mb / 1024:.1f} GiB",
        highlight=False,
    )
    if not summary.pushed:
        for sentence in summary.refusals:
            console.print(f"[red]Refused[/red]: {escape(sentence)}.", soft_wrap=True)
        _print_curve(console, summary)
        return
    console.print(metrics_table(summary.metrics))
    for flavour, path in summary.servables.items():
        console.print(f"servable ({flavour}): {path}", soft_wrap=True, highlight=False)
    _print_curve(console, summary)
    console.print(f"metrics:  {summary.home}/last_run.json", soft_wrap=True, highlight=False)
    console.print(f"metadata: {summary.home}/metadata.sqlite", soft_wrap=True, highlight=False)
    console.print(f"log:      {summary.home}/run.log", soft_wrap=True, highlight=False)
    console.print("\nTry next:", highlight=False)
    # The interpreter that has the requirements is seldom the one called "python".
    python = os.path.relpath(sys.executable)
    for suggestion in (
        f"{python} pipeline.py serve {command}",
        f"{python} pipeline.py query {command} --user 0",
        f"{python} pipeline.py evaluate recommender {command} --through grpc",
    ):
        console.print(f"  {suggestion}", soft_wrap=True, highlight=False)


def _print_curve(console: Console, summary: Summary) -> None:
    index = summary.artifacts.get("IndexBuilder.index")
    if index:
        console.print(
            f"indices:  {index}/curve.png, recall against queries/s of every setting tried",
            soft_wrap=True,
            highlight=False,
        )
