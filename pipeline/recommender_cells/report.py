"""From finished cells to figures: means over seeds, differences over users, a page."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.comparison.records import FinishedCell, Record
from pipeline.recommender_cells.methods import METHODS
from sid_tfx.evaluation import bootstrap_mean
from sid_tfx.metrics.ranking import per_user_metrics

Row = dict[str, Any]

FIGURES = (
    "recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr", "coverage@10", "popularity_bias@10",
    "validation_ndcg@10", "train_seconds",
)  # fmt: skip
"""Figures that the table averages, in the order of its columns."""

_COMPARED = ("recall@10", "ndcg@10")
_GROUP = ("split", "method", "mode", "filtered", "level")


def flat_records(cells: Sequence[FinishedCell]) -> list[Record]:
    """All records of the cells, by split, method and seed."""
    records = [record for cell in cells for record in cell.record["records"]]
    return sorted(records, key=lambda r: (r["split"], METHODS.index(r["method"]), r["seed"]))


def summarize(records: Sequence[Record]) -> list[Row]:
    """Means over seeds.

    Returns:
        A row per split, method, mode, filter and level with these, `users`, `seeds`, and for each
        of `FIGURES` its `NAME_mean` and `NAME_std` (n - 1 in the denominator; None for one seed).
    """
    groups: dict[tuple, list[Record]] = collections.defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in _GROUP)].append(record)
    rows = []
    for key, members in groups.items():
        row: Row = dict(zip(_GROUP, key, strict=True))
        row |= {"users": members[0]["users"], "seeds": len(members)}
        for figure in FIGURES:
            values = [member[figure] for member in members]
            row[f"{figure}_mean"] = float(np.mean(values))
            row[f"{figure}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(row)
    return rows


def differences(cells: Sequence[FinishedCell], reference: str) -> list[Row]:
    """A method against every other, user by user, within a split and a filter, item level.

    A user's metric is averaged over the method's seeds, then users are resampled. The interval
    says how far the difference hangs on which users there are, given these trainings.

    Args:
        cells: Finished cells.
        reference: `METHOD` or `METHOD MODE`, such as `item_level hybrid`; rows of it are compared.

    Returns:
        Rows with `split`, `filtered`, `first`, `second`, `metric`, `difference` (first - second),
        `low` and `high` of its 95% interval, and `users`.
    """
    ranks: dict[tuple[str, str], dict[str, list[np.ndarray]]] = collections.defaultdict(
        lambda: collections.defaultdict(list)
    )
    for cell in sorted(cells, key=lambda cell: METHODS.index(cell.spec["method"])):
        for name, values in cell.ranks.items():
            mode, _, kind = name.rpartition("-")
            label = f"{cell.spec['method']} {mode}".strip()
            ranks[(cell.spec["split"], kind)][label].append(values.astype(np.int64))
    rows = []
    for (split, kind), methods in sorted(ranks.items()):
        for first in [label for label in methods if label in (reference, f"{reference} hybrid")]:
            for second in [label for label in methods if label != first]:
                for metric in _COMPARED:
                    one, other = (_per_user(methods[name], metric) for name in (first, second))
                    rows.append(
                        {
                            "split": split,
                            "filtered": kind == "filtered",
                            "first": first,
                            "second": second,
                            "metric": metric,
                            **bootstrap_mean(one - other),
                            "users": len(one),
                        }
                    )
    return rows


def _per_user(ranks: Sequence[np.ndarray], metric: str) -> np.ndarray:
    return np.mean([per_user_metrics(values)[metric] for values in ranks], axis=0)


def table_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and printed values of the item-level rows."""
    titles = ["split", "method", "filtered", "seeds", *FIGURES]
    lines = []
    for row in rows:
        if row["level"] != "item":
            continue
        line = [row["split"], f"{row['method']} {row['mode']}".strip(), _yes(row["filtered"])]
        line.append(str(row["seeds"]))
        for figure in FIGURES:
            digits = {"train_seconds": 0, "popularity_bias@10": 2, "coverage@10": 3}.get(figure, 4)
            mean, deviation = (row[f"{figure}_{what}"] for what in ("mean", "std"))
            spread = "" if deviation is None else f" ± {deviation:.{digits}f}"
            line.append(f"{mean:.{digits}f}{spread}")
        lines.append(line)
    return titles, lines


def difference_cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and printed values of the differences."""
    titles = ["split", "first", "second", "filtered", "metric", "first - second", "95% interval"]
    return titles, [
        [
            row["split"],
            row["first"],
            row["second"],
            _yes(row["filtered"]),
            row["metric"],
            f"{row['difference']:+.5f}",
            f"{row['low']:+.5f} to {row['high']:+.5f}",
        ]
        for row in rows
    ]


def page(title: str, rows: Sequence[Row], compared: Sequence[Row], notes: Sequence[str]) -> str:
    """Both tables and the notes as one Markdown page."""
    parts = [f"# {title}", _markdown(*table_cells(rows))]
    if compared:
        parts += ["## Paired over users", _markdown(*difference_cells(compared))]
    return "\n\n".join([*parts, *notes]) + "\n"


def print_tables(
    console: Console, title: str, rows: Sequence[Row], compared: Sequence[Row]
) -> None:
    """Both tables on the terminal."""
    for name, (titles, lines) in (
        (title, table_cells(rows)),
        ("Paired over users", difference_cells(compared)),
    ):
        if lines:
            table = Table(title=name, title_justify="left")
            for column in titles:
                table.add_column(column, overflow="fold")
            for line in lines:
                table.add_row(*line)
            console.print(table)


def _markdown(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(titles)
    return "\n".join("| " + " | ".join(line) + " |" for line in [titles, rule, *lines])


def _yes(value: bool) -> str:
    return "yes" if value else "no"
