"""Callbacks of the user before those that a training adds."""

from collections.abc import Iterable, Iterator, Sequence

import keras

from sid_tfx.callbacks.schedules import LearningRateDecay

_RATE_CALLBACKS = (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau)


def each_callback(
    callbacks: Iterable[keras.callbacks.Callback],
) -> Iterator[keras.callbacks.Callback]:
    """Yields the callbacks, and in place of a `CallbackList` those in it."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.CallbackList):
            yield from each_callback(callback.callbacks)
        else:
            yield callback


def still_needed(
    needed: Iterable[keras.callbacks.Callback], given: Sequence[keras.callbacks.Callback]
) -> list[keras.callbacks.Callback]:
    """Returns those of `needed` whose work no given callback does.

    A callback of the same kind or of a subclass does it. Keras' callbacks of the learning rate
    stand for `LearningRateDecay`, which would set the rate anew in every epoch and undo them.

    Args:
        needed: What a training would add.
        given: What the user gave; `CallbackList`s may be among them.
    """
    found = list(each_callback(given))

    def done(callback: keras.callbacks.Callback) -> bool:
        kinds: tuple[type, ...] = (type(callback),)
        if isinstance(callback, LearningRateDecay):
            kinds += _RATE_CALLBACKS
        return any(isinstance(other, kinds) for other in found)

    return [callback for callback in needed if not done(callback)]
