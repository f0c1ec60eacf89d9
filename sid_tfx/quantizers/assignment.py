"""Assignments: which code of a codebook a vector gets."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from sid_tfx.quantizers.sinkhorn import sinkhorn_codes


def unit(vectors: Any) -> Any:
    """Returns vectors of length 1, float `[..., D]`; a zero vector stays zero.

    Unlike `ops.normalize`, its gradient at a zero vector is a number.
    """
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, 1e-12))


def scores(vectors: Any, keys: Any, halves: Any) -> Any:
    """Returns how well each code fits, float `[B, K]`; more is better.

    The score is half of what a squared distance leaves after the part that is the same for every
    code: -cost / 2 = vector . key - (|key|^2 + offset) / 2 + constant.

    Args:
        vectors: float `[B, W]`.
        keys: Code vectors, transposed, float `[W, K]`.
        halves: (|key|^2 + offset) / 2, float `[K]`.
    """
    return ops.matmul(vectors, keys) - halves


def best(values: Any) -> Any:
    """Returns the code with the highest score, int32 `[B]`, the first of equals."""
    # On TensorFlow, ops.argmax treats negative zeros first, at three times the cost of top_k.
    return ops.cast(ops.top_k(values, 1)[1][..., 0], "int32")


class Assignment(NamedTuple):
    """How codes are chosen.

    Attributes:
        unit: Whether vectors and code vectors are compared at length 1.
        choose: From scores `[B, K]` of a training batch to codes int32 `[B]`. At inference the
            best score decides, so that a code never depends on the batch.
    """

    unit: bool
    choose: Callable[[Any], Any]


ASSIGNMENTS: dict[str, Assignment] = {
    "nearest": Assignment(unit=False, choose=best),
    "cosine": Assignment(unit=True, choose=best),
    "sinkhorn": Assignment(unit=False, choose=sinkhorn_codes),
}
