"""From finished cells to figures: means over seeds, and differences that hold over users."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.comparison.cells import REPULSION, Variant, in_order
from pipeline.comparison.records import FinishedCell
from sid_tfx.evaluation import bootstrap_mean
from sid_tfx.metrics.ranking import per_user_metrics

Row = dict[str, Any]

FIGURES = (
    "collision_share", "largest_group", "distinct_sids", "entropy_nats", "entropy_share",
    "v_measure", "prefix_purity", "coverage", "dead_codes", "perplexity", "gini",
    "embedding_hit_rate", "recall@10", "ndcg@10", "sid_recall@10", "sid_ndcg@10",
    "validation_recall@10", "validation_ndcg@10",
    "train_seconds", "train_cpu_seconds", "recommender_seconds", "peak_rss_mb",
    "tokenizer_peak_rss_mb",
)  # fmt: skip
"""Figures of a record that the table averages, in the order of its columns."""

PER_LEVEL = ("v_measure", "prefix_purity", "coverage", "dead_codes", "perplexity", "gini")
"""Those of `FIGURES` that are lists with a value per level."""


def by_variant(cells: Sequence[FinishedCell]) -> dict[Variant, list[FinishedCell]]:
    """Groups cells into rows, in the order of `PRESETS`; the cells of a row by seed."""
    groups: dict[Variant, list[FinishedCell]] = collections.defaultdict(list)
    for cell in sorted(cells, key=lambda cell: cell.record["seed"]):
        groups[Variant(cell.record["preset"], cell.record["ablation"])].append(cell)
    return {variant: groups[variant] for variant in in_order(groups)}


def summarize(groups: Mapping[Variant, Sequence[FinishedCell]]) -> list[Row]:
    """One flat row per variant.

    Args:
        groups: What `by_variant` made.

    Returns:
        Rows with `row`, `preset`, `ablation`, `dataset`, `levels`, `codebook_size`, `users`,
        `seeds`, and for every figure `NAME_mean` and `NAME_std` over seeds (n - 1 in the
        denominator; None for one seed). Figures per level are numbered: `v_measure_1_mean`.
    """
    rows = []
    for variant, cells in groups.items():
        records = [cell.record for cell in cells]
        row: Row = {"row": variant.label}
        for name in ("preset", "ablation", "dataset", "levels", "codebook_size", "users"):
            row[name] = records[0][name]
        row["seeds"] = len(records)
        for figure in FIGURES:
            values = np.array([np.ravel(record[figure]) for record in records], float)
            for level, column in enumerate(values.T, start=1):
                name = f"{figure}_{level}" if figure in PER_LEVEL else figure
                row[f"{name}_mean"] = float(column.mean())
                row[f"{name}_std"] = float(column.std(ddof=1)) if len(column) > 1 else None
        rows.append(row)
    return rows


def differences(
    groups: Mapping[Variant, Sequence[FinishedCell]], reference: str, metric: str = "ndcg@10"
) -> list[Row]:
    """Compares rows user by user on the test set, item level.

    A user's metric is averaged over the row's seeds, then users are resampled. The interval says
    how far the difference hangs on which users there are, given these trainings.

    Args:
        groups: What `by_variant` made.
        reference: Label of the row that is compared with every other; skipped where absent.
        metric: A metric of `sid_tfx.metrics.ranking`.

    Returns:
        Rows with `first`, `second`, `metric`, `difference` (first - second) with the ends `low`
        and `high` of its 95% interval, `relative` (difference over the second's mean, None where
        that is 0), `first_seeds`, `second_seeds` and `users`: the reference against every other
        row, then every `+hamr` row against its plain one.
    """
    labels = {variant.label: variant for variant in groups}
    compared: list[tuple[Variant, Variant]] = []
    if reference in labels:
        first = labels[reference]
        compared += [(first, other) for other in groups if other != first]
    compared += [
        (variant, Variant(variant.preset))
        for variant in groups
        if variant.ablation == REPULSION and Variant(variant.preset) in groups
    ]
    values = {variant: _per_user(cells, metric) for variant, cells in groups.items()}
    rows = []
    for one, other in compared:
        found = bootstrap_mean(values[one] - values[other])
        mean = float(values[other].mean())
        rows.append(
            {
                "first": one.label,
                "second": other.label,
                "metric": metric,
                **found,
                "relative": found["difference"] / mean if mean else None,
                "first_seeds": len(groups[one]),
                "second_seeds": len(groups[other]),
                "users": len(values[one]),
            }
        )
    return rows


def _per_user(cells: Sequence[FinishedCell], metric: str) -> np.ndarray:
    """The metric of every test user, averaged over cells, float64 `[users]`."""
    values = [per_user_metrics(cell.ranks["test"].astype(np.int64))[metric] for cell in cells]
    return np.mean(values, axis=0)
