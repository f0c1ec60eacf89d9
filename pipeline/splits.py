"""InteractionBuilder's splits as the recommender and the evaluation harness read them."""

import numpy as np

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets import records
from sid_tfx.datasets.sequences import EvaluationSet, Sequences


def flat_sequences(found: records.Sequences, catalog: SidCatalog) -> Sequences:
    """Turns histories of ad ids into catalogue rows; timestamps are places in the log."""
    rows = catalog.rows(np.concatenate([np.array([], str), *found.histories]))
    offsets = np.cumsum([0, *(len(history) for history in found.histories)])
    return Sequences(offsets.astype(np.int64), rows, np.arange(len(rows)))


def evaluation_set(found: records.Sequences, catalog: SidCatalog) -> EvaluationSet:
    """Turns a split with targets into what the evaluation harness reads."""
    targets = catalog.rows(found.targets)
    return EvaluationSet(
        found.user_ids, flat_sequences(found, catalog), targets, np.zeros(len(targets), np.int64)
    )
