"""Look-ups in tables, and the embedding table whose gradient is one array on every backend."""

from typing import Any

import keras
from keras import ops


def look_up(table: Any, rows: Any) -> Any:
    """Rows `[..., D]` of a table `[N, D]`, by int `[...]` in `[0, N)`.

    Keras' `take` first puts negative indices right: four further operations on TensorFlow, each
    time, of which a request's decoding has dozens.
    """
    if keras.backend.backend() == "tensorflow":
        from sid_tfx.table_rows import gather_rows

        return gather_rows(table, rows)
    return ops.take(table, rows, axis=0)


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
        table = ops.convert_to_tensor(self.embeddings)
        if training:
            # The gradient of a product is an array, that of a look-up is rows.
            table = ops.multiply(table, 1.0)
        return ops.cast(look_up(table, ops.cast(inputs, "int32")), self.compute_dtype)
