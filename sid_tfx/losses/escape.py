"""Collision escape: an ad that shares its codes is drawn to the nearest code that is free."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sid_tfx")
class CollisionEscape(keras.layers.Layer):
    """Draws ads over the border of a cell of the last codebook, into a cell that is free.

    Repulsion says that two ads must part, not where to: in many dimensions they get far from each
    other inside one cell, or into one that a third ad has. Here each ad that must move has a code
    of the last level to move to, the nearest that no ad of its prefix has (`ConflictMining` finds
    it), and pays until that code fits best by `margin`. It crosses the nearest border, so it moves
    little. The gradient reaches the fits alone.

    Args:
        margin: By how much the wanted code must fit better, in half squared distances.

    Raises:
        ValueError: `margin` is negative.

    Reference:
        Ours.
    """

    def __init__(self, margin: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if margin < 0.0:
            raise ValueError(f"margin must not be negative, got {margin}.")
        self.margin = margin
        # No weights to wait for: `fit` after steps on batches without the feature rebuilds nothing.
        self.built = True

    def call(self, fits: Any, wanted: Any) -> Any:
        """Returns a scalar, the mean over the ads that must move; 0 where none must.

        Args:
            fits: float `[B, K]`, how well each code of the last level fits, more is better.
            wanted: int `[B]`, the code that shall fit best; -1 for any.
        """
        fits, wanted = ops.convert_to_tensor(fits), ops.cast(wanted, "int32")
        moving = ops.cast(ops.greater_equal(wanted, 0), fits.dtype)
        chosen = ops.one_hot(ops.maximum(wanted, 0), fits.shape[-1], dtype=fits.dtype)
        fit = ops.sum(chosen * fits, axis=-1)
        rival = ops.max(fits - 1e9 * chosen, axis=-1)
        short = ops.relu(rival - fit + self.margin)
        return ops.sum(moving * short) / ops.maximum(ops.sum(moving), 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "margin": self.margin}
