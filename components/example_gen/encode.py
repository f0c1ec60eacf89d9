"""Canonical Arrow columns to serialized tf.Examples, a missing value being an absent feature."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder


def encode_examples(columns: Mapping[str, pa.Array], rows: np.ndarray) -> list[bytes]:
    """Serializes some rows.

    Args:
        columns: Feature name -> bytes, float32 or int64 values, or lists of one of them; null is
            missing.
        rows: Rows to serialize, int64.

    Returns:
        One tf.Example a row, in the order of `rows`.
    """
    if not len(rows):
        return []
    picked = {name: array.take(pa.array(rows)) for name, array in columns.items()}
    present = np.stack(
        [array.is_valid().to_numpy(zero_copy_only=False) for array in picked.values()], axis=1
    )
    # The encoder writes a feature without a kind for null. One call for each set of columns that
    # is present, few in practice, leaves the feature out instead.
    patterns, pattern_of = np.unique(present, axis=0, return_inverse=True)
    examples = np.empty(len(rows), object)
    encoder = RecordBatchToExamplesEncoder()
    for number, pattern in enumerate(patterns):
        members = np.flatnonzero(pattern_of == number)
        take = pa.array(members)
        arrays = {
            name: _as_lists(array.take(take))
            for (name, array), there in zip(picked.items(), pattern, strict=True)
            if there
        }
        if not arrays:
            examples[members] = b""
            continue
        batch = pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays))
        examples[members] = encoder.encode(batch)
    return list(examples)


def _as_lists(array: pa.Array) -> pa.Array:
    if pa.types.is_large_list(array.type):
        return array
    return pa.LargeListArray.from_arrays(pa.array(np.arange(len(array) + 1)), array)
