"""Reconstruction error, and the codebook and commitment terms of a vector quantizer."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="sid_tfx")
class Reconstruction(keras.layers.Layer):
    """Squared error, summed over a vector and averaged over the batch.

    Summed and not averaged over the vector, so that its weight against the other terms does not
    depend on the vector's size.

    Example:

    >>> float(Reconstruction()(np.ones((2, 3)), np.zeros((2, 3))))
    3.0
    """

    def call(self, target: Any, reconstructed: Any) -> Any:
        """Returns a scalar for two float tensors `[B, D]`."""
        return ops.mean(ops.sum(ops.square(target - reconstructed), axis=-1))


@keras.saving.register_keras_serializable(package="sid_tfx")
class CodebookCommitment(keras.layers.Layer):
    """L_rq: pulls code vectors to what they quantize, and the encoder to its code vectors.

    For each level, |sg(input) - vector|^2 + beta |input - sg(vector)|^2, summed over levels and
    averaged over the batch (QuaSID, arXiv 2603.00632, L_rq).

    Args:
        beta: Weight of the commitment term.

    Raises:
        ValueError: `beta` is negative.
    """

    def __init__(self, beta: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if beta < 0:
            raise ValueError(f"beta must not be negative, got {beta}.")
        self.beta = beta

    def call(self, inputs: Any, vectors: Any) -> Any:
        """Returns a scalar.

        Args:
            inputs: float `[B, L, D]`, what each level was given to quantize.
            vectors: float `[B, L, D]`, the code vectors it chose.
        """
        codebook = ops.square(ops.stop_gradient(inputs) - vectors)
        commitment = ops.square(inputs - ops.stop_gradient(vectors))
        return ops.mean(ops.sum(codebook + self.beta * commitment, axis=(1, 2)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "beta": self.beta}
