"""Embedding table whose gradient is one array on every backend."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sid_tfx")
class DenseGradientEmbedding(keras.layers.Embedding):
    """`keras.layers.Embedding` that `global_clipnorm` clips alike on every backend.

    On TensorFlow the gradient of a table is a list of rows, one for each id of the batch, and
    Keras takes the norm of that list: an id that occurs twice counts as two rows, where the
    gradient holds their sum. So the same step was clipped to another length than on JAX.
    Optimizers with moments make the rows an array anyway; doing it first costs nothing.

    Args:
        *args: As `keras.layers.Embedding`.
        **kwargs: As `keras.layers.Embedding`.

    Example:

    >>> DenseGradientEmbedding(100, 8)(np.array([[3, 3, 5]])).shape
    (1, 3, 8)
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Looks up ids int `[...]`; returns float `[..., output_dim]`."""
        if not training:
            return super().call(inputs)
        # The gradient of a product is an array, that of a look-up is rows.
        table = ops.multiply(ops.convert_to_tensor(self.embeddings), 1.0)
        return ops.cast(ops.take(table, ops.cast(inputs, "int32"), axis=0), self.compute_dtype)
