"""Histories of ad ids as the recommender and the evaluation harness read them: catalogue rows."""

from __future__ import annotations

import numpy as np

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets import records
from sid_tfx.datasets.sequences import EvaluationSet, Sequences


def flat_sequences(found: records.Sequences, catalog: SidCatalog) -> Sequences:
    """Turns histories of ad ids into catalogue rows, with what is known of the events."""
    rows = catalog.rows(np.concatenate([np.array([], str), *found.histories]))
    offsets = np.cumsum([0, *(len(history) for history in found.histories)])
    timestamps = np.concatenate([np.array([], np.int64), *found.timestamps])
    events = np.concatenate([np.array([], str), *found.events])
    weights = np.concatenate([np.array([], np.float32), *found.weights])
    return Sequences(
        offsets.astype(np.int64),
        rows,
        timestamps,
        events if (events != "").any() else None,
        weights if weights.any() else None,
    )


def evaluation_set(found: records.Sequences, catalog: SidCatalog) -> EvaluationSet:
    """Turns a split with targets into what the evaluation harness reads."""
    targets = catalog.rows(found.targets)
    return EvaluationSet(
        found.user_ids, flat_sequences(found, catalog), targets, np.zeros(len(targets), np.int64)
    )
