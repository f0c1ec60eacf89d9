"""The order of callbacks: what writes into an epoch's logs comes before what reads them."""

from collections.abc import Iterable

import keras


class LogWriter(keras.callbacks.Callback):
    """Base of callbacks that add figures to an epoch's logs."""


def writers_first(callbacks: Iterable[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
    """Returns the callbacks with every `LogWriter` in front, the order left as it is otherwise.

    Keras hands an epoch's logs from one callback to the next, so TensorBoard, early stopping or a
    CSV logger misses what a later callback writes. The progress bar is always the last.
    `SwapEMAWeights` alone stays before the writers: what they measure is what the others keep, the
    averages of the weights.
    """

    def place(callback: keras.callbacks.Callback) -> int:
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            return 0
        return 1 if isinstance(callback, LogWriter) else 2

    return sorted(callbacks, key=place)
