"""Gradient estimators: how a gradient passes the choice of a code."""

from collections.abc import Callable
from typing import Any

from keras import ops

from sid_tfx.directions import to_unit


def straight_through(vectors: Any, quantized: Any) -> Any:
    """Returns `quantized` forward and the gradient of `vectors` backward (van den Oord, 2017).

    Args:
        vectors: Before quantization, float `[..., D]`.
        quantized: After it, the same shape.
    """
    return vectors + ops.stop_gradient(quantized - vectors)


def rotation_trick(vectors: Any, quantized: Any) -> Any:
    """Returns `quantized` forward; backward, the gradient turns with the vector.

    The rotation and rescaling that carries `vectors` onto `quantized` is held constant, so the
    angle between a gradient and the code vector is kept on the way to the vector.

    Args:
        vectors: Before quantization, float `[..., D]`.
        quantized: After it, the same shape.

    Reference:
        [Fifty et al., 2024, Restructuring Vector Quantization with the Rotation Trick](
        https://arxiv.org/abs/2410.06424), Section 4.2
    """
    source, target = ops.stop_gradient(vectors), ops.stop_gradient(quantized)
    source_length = ops.sqrt(ops.sum(ops.square(source), axis=-1, keepdims=True))
    target_length = ops.sqrt(ops.sum(ops.square(target), axis=-1, keepdims=True))
    # A vector of no length has no direction to turn; it gets the straight-through gradient.
    turns = ops.logical_and(source_length > 1e-6, target_length > 1e-6)
    source = source / ops.maximum(source_length, 1e-6)
    target = target / ops.maximum(target_length, 1e-6)
    middle = to_unit(source + target)
    # Two Householder reflections: no [D, D] matrix for a vector.
    turned = (
        vectors
        - 2 * middle * ops.sum(middle * vectors, axis=-1, keepdims=True)
        + 2 * target * ops.sum(source * vectors, axis=-1, keepdims=True)
    )
    scale = target_length / ops.maximum(source_length, 1e-6)
    return straight_through(ops.where(turns, scale * turned, vectors), quantized)


ESTIMATORS: dict[str, Callable[[Any, Any], Any]] = {
    "straight_through": straight_through,
    "rotation": rotation_trick,
    # In training the softmax mixture of gumbel.py takes its place.
    "gumbel": straight_through,
}
