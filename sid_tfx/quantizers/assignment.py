"""Assignments: how well each code of a codebook fits a vector."""

from collections.abc import Callable
from typing import Any

from keras import ops


def nearest(vectors: Any, codebook: Any) -> Any:
    """Returns squared Euclidean distances.

    Args:
        vectors: float `[..., D]`.
        codebook: float `[K, D]`.

    Returns:
        Costs, float `[..., K]`; the code with the least cost is assigned.
    """
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    products = ops.matmul(vectors, ops.transpose(codebook))
    return squares - 2 * products + ops.sum(ops.square(codebook), axis=-1)


ASSIGNMENTS: dict[str, Callable[[Any, Any], Any]] = {"nearest": nearest}
