"""What a tokenizer trains on: which data will do, and a sample of its ads for the codebooks."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.datasets.pairs import PairBatches

_CURE = "sid_tfx.datasets.pairs.PairBatches makes batches of features and pairs"


def check_batches(batches: Any) -> None:
    """Checks that training data come as batches of stacked pairs and more than once.

    Args:
        batches: What `SidTokenizer.fit` is given.

    Raises:
        TypeError: It holds single ads, as a dictionary of arrays does, or can be read only once.
    """
    kind = type(batches).__name__
    if isinstance(batches, Iterator):
        raise TypeError(
            f"fit needs batches that can be read more than once, got the iterator {kind}: the "
            "codebooks are set from a first reading, each epoch is one more. "
            f"{_CURE}; a tf.data.Dataset of such batches will do, too."
        )
    arrays = isinstance(batches, Mapping | list | tuple) or hasattr(batches, "__array__")
    if batches is None or arrays:
        raise TypeError(
            f"fit needs batches of stacked pairs, got {kind}: Keras would shuffle and cut arrays "
            f"anywhere, which makes pairs of ads that are none. {_CURE}."
        )


def sample_features(batches: Any, rows: int) -> dict[str, np.ndarray]:
    """Returns the features of about `rows` ads, of fewer where there are not as many.

    Args:
        batches: `PairBatches`, from all of whose ads the sample is spread evenly; of any other
            dataset of feature dictionaries the first batches are taken.
        rows: Ads wanted.

    Returns:
        Feature name -> array `[N, ...]`.
    """
    if isinstance(batches, PairBatches):
        kept = np.unique(np.linspace(0, batches.rows - 1, min(rows, batches.rows)).astype(int))
        return {name: values[kept] for name, values in batches.features.items()}
    taken: list[Mapping[str, Any]] = []
    count = 0
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
