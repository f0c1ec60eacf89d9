"""Figures of codebook health that cost almost nothing in a training step."""

from typing import Any

from keras import ops


def distinct_share(codes: Any, ad_row: Any) -> Any:
    """Returns the share of a batch's rows that are no other ad's semantic ID over again.

    Args:
        codes: int `[B, L]`.
        ad_row: int `[B]`, which ad a row is; copies of an ad do not count.

    Returns:
        A float32 scalar; 1 where no two ads of the batch collide.
    """
    rows = ops.arange(ops.shape(codes)[0])
    copy = ops.logical_and(
        ops.not_equal(ad_row[:, None], ad_row[None]), ops.less(rows[None], rows[:, None])
    )
    # Level by level: a [B, B, L] comparison costs four times as much.
    for code in ops.unstack(codes, axis=1):
        copy = ops.logical_and(copy, ops.equal(code[:, None], code[None]))
    copied = ops.any(copy, axis=-1)
    return 1.0 - ops.mean(ops.cast(copied, "float32"))


def perplexities(codes: Any, codebook_size: int) -> Any:
    """Returns the effective number of codes that a batch uses at each level, float32 `[L]`.

    Args:
        codes: int `[B, L]`.
        codebook_size: K.
    """
    rows, levels = ops.shape(codes)[0], codes.shape[1]
    places = ops.reshape(codes + codebook_size * ops.arange(levels, dtype="int32"), (-1,))
    counts = ops.segment_sum(
        ops.ones_like(places, dtype="float32"), places, num_segments=levels * codebook_size
    )
    used = ops.reshape(counts, (levels, codebook_size)) / ops.cast(rows, "float32")
    return ops.exp(-ops.sum(used * ops.log(used + 1e-9), axis=-1))
