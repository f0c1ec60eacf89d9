"""How vectors and codes are compared."""

from typing import Any

from keras import ops


def unit(vectors: Any) -> Any:
    """Returns vectors of length 1, float `[..., D]`; a zero vector stays zero.

    Unlike `ops.normalize`, its gradient at a zero vector is a number.
    """
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, 1e-12))


def best(values: Any) -> Any:
    """Returns the code with the highest score, int32 `[B]`, the first of equals."""
    # On TensorFlow, ops.argmax treats negative zeros first, at three times the cost of top_k.
    return ops.cast(ops.top_k(values, 1)[1][..., 0], "int32")
