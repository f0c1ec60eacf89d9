"""Gradient estimators: how a gradient passes the choice of a code."""

from collections.abc import Callable
from typing import Any

from keras import ops


def straight_through(vectors: Any, quantized: Any) -> Any:
    """Returns `quantized` forward and the gradient of `vectors` backward (van den Oord, 2017).

    Args:
        vectors: Before quantization, float `[..., D]`.
        quantized: After it, the same shape.
    """
    return vectors + ops.stop_gradient(quantized - vectors)


GRADIENTS: dict[str, Callable[[Any, Any], Any]] = {"straight_through": straight_through}
