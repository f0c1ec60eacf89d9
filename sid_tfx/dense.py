"""A dense layer whose kernel gradient costs what its forward pass does."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sid_tfx")
class FlatDense(keras.layers.Dense):
    """`keras.layers.Dense` that multiplies matrices of two axes, whatever its inputs have.

    On TensorFlow the kernel gradient of an input `[B, T, d]` is a matrix for each row of the batch
    and then their sum: several times the work of one product of `[B * T, d]`, and most of a step
    where the kernels are as large as the rows are short.

    Args:
        *args: As `keras.layers.Dense`.
        **kwargs: As `keras.layers.Dense`.

    Example:

    >>> FlatDense(8)(np.zeros((2, 3, 4))).shape
    TensorShape([2, 3, 8])
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Maps float `[..., d]` to `[..., units]`."""
        if len(inputs.shape) <= 2:
            return super().call(inputs, training=training)
        outputs = super().call(ops.reshape(inputs, (-1, inputs.shape[-1])), training=training)
        return ops.reshape(outputs, (*ops.shape(inputs)[:-1], self.units))
