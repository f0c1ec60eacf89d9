"""Codebook learning by moving averages, and balance without a loss."""

from typing import Any

from keras import ops

LEARNING = ("gradient", "ema")


def moving_average(
    codebooks: Any, counts: Any, places: Any, inputs: Any, decay: float
) -> tuple[Any, Any]:
    """Returns codebooks moved towards the means of what was assigned, and the new counts.

    Counts are relative to even use, so that 1 is a fitting start whatever the batch size.

    Args:
        codebooks: float `[L, K, W]`.
        counts: Running use of each code, float `[L, K]`.
        places: Codes of a batch, numbered through over the levels, int32 `[B, L]`.
        inputs: What they were assigned to, float `[B, L, W]`.
        decay: Share that a batch keeps.

    Reference:
        [van den Oord et al., 2017, Neural Discrete Representation Learning](
        https://arxiv.org/abs/1711.00937), Appendix A.1
    """
    levels, size, width = codebooks.shape
    # Of a code long out of use nothing but its place is left, and 0 / 0 would lose that.
    kept = decay * ops.maximum(counts, 1e-6)
    weight = (1 - decay) * size / ops.cast(ops.shape(places)[0], codebooks.dtype)
    rows = ops.concatenate([inputs, ops.ones_like(inputs[..., :1])], axis=-1)
    totals = ops.segment_sum(
        ops.reshape(weight * rows, (-1, width + 1)),
        ops.reshape(places, (-1,)),
        num_segments=levels * size,
    )
    totals = ops.reshape(totals, (levels, size, width + 1))
    moved = kept + totals[..., -1]
    means = (kept[..., None] * codebooks + totals[..., :-1]) / moved[..., None]
    return means, moved


def mean_cost(queries: Any, keys: Any) -> Any:
    """Returns the mean squared distance of all vectors `[B, W]` to all codes `[K, W]`, a scalar.

    The offsets of `balance` move in this unit.
    """
    # From means and mean squares, so without a [B, K] tensor.
    squares = ops.mean(ops.sum(ops.square(queries), axis=-1)) + ops.mean(
        ops.sum(ops.square(keys), axis=-1)
    )
    return squares - 2 * ops.sum(ops.mean(queries, axis=0) * ops.mean(keys, axis=0))
