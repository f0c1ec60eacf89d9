"""A sample of the ads that a training set holds, to set codebooks from."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.datasets.pairs import PairBatches


def sample_features(batches: Any, rows: int) -> dict[str, np.ndarray]:
    """Returns the features of about `rows` ads, of fewer where there are not as many.

    Args:
        batches: `PairBatches`, from all of whose ads the sample is spread evenly; any other
            dataset of feature dictionaries or one dictionary, of which the first batches are taken.
        rows: Ads wanted.

    Returns:
        Feature name -> array `[N, ...]`.
    """
    if isinstance(batches, PairBatches):
        kept = np.unique(np.linspace(0, batches.rows - 1, min(rows, batches.rows)).astype(int))
        return {name: values[kept] for name, values in batches.features.items()}
    taken: list[Mapping[str, Any]] = []
    count = 0
    if isinstance(batches, Mapping):
        taken = [batches]
    else:
        order = (
            (batches[index] for index in range(len(batches)))
            if isinstance(batches, keras.utils.PyDataset)
            else batches
        )
        for batch in order:
            features = batch[0] if isinstance(batch, tuple) else batch
            taken.append(features)
            count += len(next(iter(features.values())))
            if count >= rows:
                break
    return {
        name: np.concatenate([ops.convert_to_numpy(features[name]) for features in taken])
        for name in taken[0]
    }
