"""The fingerprint of a model: what its variables hold, not how a file stores them."""

import hashlib

import keras
import numpy as np
from keras import ops


def fingerprint(model: keras.Model) -> str:
    """Returns 16 hex digits that change with any weight, shape or dtype.

    Saving and loading keeps it; file timestamps and optimizer state do not enter.

    Args:
        model: A built model.

    Raises:
        ValueError: The model has no variables yet.
    """
    if not model.weights:
        raise ValueError(f"{model.name} has no variables; build or load it before a fingerprint.")
    digest = hashlib.sha256()
    for variable in model.weights:
        # ascontiguousarray alone would turn a scalar into a vector.
        values = np.asarray(ops.convert_to_numpy(variable), order="C")
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]
