"""Vectors brought to length 1, with a gradient that is a number everywhere."""

from typing import Any

from keras import ops

_SMALLEST = 1e-12
"""Squared length below which a vector has no direction."""


def to_unit(vectors: Any) -> Any:
    """Returns vectors of length 1, float `[..., D]`; a zero vector stays zero.

    `ops.normalize` has a slope of 1e7 at a zero vector on TensorFlow, and NaN on JAX: one ad
    without a vector then decides the step of a whole batch. Here such a row gets no gradient.
    """
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    directed = ops.greater(squares, _SMALLEST)
    # The inner choice keeps the slope of the root finite where the outer one leaves it out.
    # ops.rsqrt would round what is left of a batch past the CPU's registers another way.
    lengths = ops.sqrt(ops.where(directed, squares, 1.0))
    return vectors * ops.where(directed, 1.0 / lengths, 0.0)
