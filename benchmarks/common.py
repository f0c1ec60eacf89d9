"""What every benchmark shares: the clock, the records, the table, the line about the machine."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = 3
_PACKAGES = ("tensorflow", "keras", "scann", "numpy", "grpcio")
# A core's worth of other work is enough to double a tail.
_BUSY_SHARE = 0.5
_FILE_WIDTH = 170

json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the flat records to this file.",
)


def console() -> Console:
    """The terminal; wide where there is none, so that tables in logs and files are not cut."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_FILE_WIDTH)


class Skipped(click.ClickException):
    """What the benchmark needs is not there; the message says how to get it."""

    exit_code = SKIPPED

    def show(self, file: Any = None) -> None:
        """Prints the message as a skip, not as an error."""
        click.echo(f"skipped: {self.message}", file=file, err=True)


Key = TypeVar("Key", bound=Hashable)


def alternate(
    calls: Mapping[Key, Callable[[], Any]], repeats: int, warm_up: int = 5
) -> dict[Key, np.ndarray]:
    """Times several calls turn by turn, so that other work on the machine falls on all alike.

    Args:
        calls: each returns only once its work is done.
        repeats: timed turns.
        warm_up: turns before them, to trace, compile and fill caches.

    Returns:
        Milliseconds, float [repeats], of each call.
    """
    for call in calls.values():
        for _ in range(warm_up):
            call()
    turns = [[_milliseconds(call) for call in calls.values()] for _ in range(repeats)]
    return dict(zip(calls, np.array(turns).T, strict=True))


def _milliseconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def percentiles(values: np.ndarray) -> dict[str, float]:
    """`p50_ms`, `p95_ms` and `p99_ms` of milliseconds."""
    found = np.percentile(values, [50, 95, 99])
    return {f"p{q}_ms": round(float(ms), 3) for q, ms in zip((50, 95, 99), found, strict=True)}


def machine() -> Record:
    """Cores, memory, load average of the last minute, and versions; flat, for every record."""
    versions = {f"{name}_version": _version(name) for name in _PACKAGES}
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "processor": platform.machine(),
        "python_version": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def print_machine(console: Console, found: Mapping[str, Any]) -> None:
    """One line on the machine, and one more where it is too busy for timings."""
    versions = ", ".join(
        f"{name.removesuffix('_version')} {value}"
        for name, value in found.items()
        if name.endswith("_version")
    )
    console.print(
        f"{found['cores']} cores ({found['processor']}), {found['memory_gb']} GB, load average "
        f"{found['load_average']}; {versions}"
    )
    if found["load_average"] > _BUSY_SHARE * found["cores"]:
        console.print(
            f"[yellow]The machine is busy (load average {found['load_average']} on "
            f"{found['cores']} cores): compare ratios within this run, trust no absolute time."
            "[/yellow]",
            highlight=False,
        )


def print_table(
    console: Console, title: str, records: Sequence[Record], columns: Sequence[str]
) -> None:
    """A table of these record keys; a key that a record lacks stays empty."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in columns:
        numeric = any(isinstance(record.get(column), int | float) for record in records)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
    for record in records:
        table.add_row(*(_cell(record.get(column)) for column in columns))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def write_records(records: Sequence[Record], found: Mapping[str, Any], path: Path | None) -> None:
    """Writes a JSON list of the records, the machine in each; nothing where `path` is None."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{**record, **found} for record in records], indent=2) + "\n")


def verdict(value: float, limit: float, at_most: bool = True) -> str:
    """`ok` or `missed`, coloured, for the line that compares a figure with its limit."""
    ok = value <= limit if at_most else value >= limit
    return "[green]ok[/green]" if ok else "[red]missed[/red]"
