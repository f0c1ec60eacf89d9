"""The tables of a comparison as Markdown, CSV, JSON and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table

from pipeline.comparison.report import Row


class Column(NamedTuple):
    """A column of the readable table.

    Attributes:
        title: Its headline.
        figure: The figure behind it.
        form: How a value is printed.
        brief: Whether it has a place on the terminal too.
    """

    title: str
    figure: str
    form: Callable[[float], str]
    brief: bool = False


def _share(value: float) -> str:
    return f"{100 * value:.2f}%"


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


def columns(levels: int) -> list[Column]:
    """The figures that a person reads first; the CSV and JSON files have all of them."""
    return [
        Column("collisions", "collision_share", _share, brief=True),
        Column("largest group", "largest_group", _fixed(1)),
        Column("entropy, nats", "entropy_nats", _fixed(4), brief=True),
        *(
            Column(f"V-measure {level}", f"v_measure_{level}", _fixed(3))
            for level in range(1, levels + 1)
        ),
        Column("R@10", "recall@10", _fixed(4), brief=True),
        Column("N@10", "ndcg@10", _fixed(4), brief=True),
        Column("SID R@10", "sid_recall@10", _fixed(4), brief=True),
        Column("SID N@10", "sid_ndcg@10", _fixed(4)),
        Column("validation N@10", "validation_ndcg@10", _fixed(4)),
        Column("tokenizer, s", "train_seconds", _fixed(0), brief=True),
        Column("tokenizer, CPU s", "train_cpu_seconds", _fixed(0)),
        Column("peak, MB", "peak_rss_mb", _fixed(0), brief=True),
    ]


def cells_of(rows: Sequence[Row], brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """Titles and printed values: mean ± standard deviation over seeds; empty where unmeasured."""
    shown = [
        column
        for column in columns(max((row["levels"] for row in rows), default=0))
        if any(f"{column.figure}_mean" in row for row in rows) and column.brief >= brief
    ]
    printed = []
    for row in rows:
        line = [row["row"], str(row["seeds"])]
        for column in shown:
            mean, deviation = (row.get(f"{column.figure}_{what}") for what in ("mean", "std"))
            text = "" if mean is None else column.form(mean)
            line.append(text if deviation is None else f"{text} ± {column.form(deviation)}")
        printed.append(line)
    return ["preset", "seeds", *(column.title for column in shown)], printed


def difference_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and printed values of the second table."""
    titles = ["first", "second", "metric", "first - second", "95% interval", "relative", "seeds"]
    printed = [
        [
            row["first"],
            row["second"],
            row["metric"],
            f"{row['difference']:+.5f}",
            f"{row['low']:+.5f} to {row['high']:+.5f}",
            "" if row["relative"] is None else f"{row['relative']:+.1%}",
            f"{row['first_seeds']}, {row['second_seeds']}",
        ]
        for row in rows
    ]
    return titles, printed


def markdown(title: str, rows: Sequence[Row], compared: Sequence[Row], notes: Sequence[str]) -> str:
    """Both tables and the notes as one Markdown page."""
    parts = [f"# {title}", _markdown_table(*cells_of(rows))]
    if compared:
        parts += ["## Paired over users", _markdown_table(*difference_cells(compared))]
    return "\n\n".join([*parts, *notes]) + "\n"


def _markdown_table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    named = titles[:2].count("second") + 1
    marks = ["---" if place < named else "---:" for place in range(len(titles))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [titles, marks, *lines])


def write_tables(
    base: Path, title: str, rows: Sequence[Row], compared: Sequence[Row], notes: Sequence[str]
) -> list[Path]:
    """Writes `base`.md with both tables, and each as CSV and JSON.

    Args:
        base: Path without suffix; the second table's files end in `-differences`.
        title: Headline of the page.
        rows: What `summarize` returned.
        compared: What `differences` returned.
        notes: Paragraphs below the tables.

    Returns:
        The paths.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    page = base.with_name(f"{base.name}.md")
    page.write_text(markdown(title, rows, compared, notes))
    paths = [page]
    for name, records in ((base.name, rows), (f"{base.name}-differences", compared)):
        as_json, as_csv = (base.with_name(name + suffix) for suffix in (".json", ".csv"))
        as_json.write_text(json.dumps(list(records), indent=1) + "\n")
        pd.DataFrame(list(records)).to_csv(as_csv, index=False)
        paths += [as_json, as_csv]
    return paths


def print_tables(
    console: Console, title: str, rows: Sequence[Row], compared: Sequence[Row]
) -> None:
    """Both tables on the terminal."""
    for name, (titles, lines) in (
        (title, cells_of(rows, brief=True)),
        ("Paired over users", difference_cells(compared)),
    ):
        if not lines:
            continue
        table = Table(title=name, title_justify="left")
        for place, column in enumerate(titles):
            table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        console.print(table)
