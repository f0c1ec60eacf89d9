"""What our models' `fit` changes of Keras' arguments: the order of batches and of callbacks."""

from collections.abc import Mapping
from typing import Any

import keras

from sid_tfx.callbacks.order import writers_first


def fit_arguments(x: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments of `keras.Model.fit` with this package's defaults.

    Args:
        x: What `fit` trains on.
        arguments: As given. `shuffle` becomes False for a `PyDataset` unless it is given, and
            `callbacks` are put in the order of `writers_first`; a `CallbackList` stays as it is.
    """
    changed = dict(arguments)
    if isinstance(x, keras.utils.PyDataset):
        # Keras would shuffle batches by the global random state; ours have an order of their own.
        changed.setdefault("shuffle", False)
    callbacks = changed.get("callbacks")
    if callbacks is not None and not isinstance(callbacks, keras.callbacks.CallbackList):
        several = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
        changed["callbacks"] = writers_first(several)
    return changed
