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
    same = ops.all(ops.equal(codes[:, None], codes[None]), axis=-1)
    other_ad = ops.not_equal(ad_row[:, None], ad_row[None])
    rows = ops.arange(ops.shape(codes)[0])
    earlier = ops.less(rows[None], rows[:, None])
    copied = ops.any(ops.logical_and(ops.logical_and(same, other_ad), earlier), axis=-1)
    return 1.0 - ops.mean(ops.cast(copied, "float32"))


def perplexities(codes: Any, codebook_size: int) -> Any:
    """Returns the effective number of codes that a batch uses at each level, float32 `[L]`.

    Args:
        codes: int `[B, L]`.
        codebook_size: K.
    """
    used = ops.mean(ops.one_hot(codes, codebook_size, dtype="float32"), axis=0)
    return ops.exp(-ops.sum(used * ops.log(used + 1e-9), axis=-1))
