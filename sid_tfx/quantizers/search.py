"""Beam search for the code tuples nearest to a vector."""

from typing import Any

from keras import ops

from sid_tfx.quantizers.beam import grow_beams, take_beams
from sid_tfx.quantizers.matching import best
from sid_tfx.quantizers.space import CodeSpace


def nearest_tuples(space: CodeSpace, vectors: Any, count: int) -> Any:
    """Returns code tuples by rising distance between a vector and what they stand for.

    Args:
        space: The codes of all levels.
        vectors: float `[B, D]`.
        count: Tuples per vector, and width of the beam; at most K ** L.

    Returns:
        int32 `[B, count, L]`, all different, the greedy choice of every level in front.
    """
    residuals = vectors[:, None]
    codes = ops.zeros((ops.shape(vectors)[0], 1, 0), dtype="int32")
    for level, values in enumerate(space.values):
        values = space.up(values, level)
        _, matched = space.query(residuals[:, 0], level)
        greedy = best(space.scores(matched, level))
        costs = ops.sum(ops.square(residuals), axis=-1, keepdims=True)
        costs = costs - 2 * ops.matmul(space.slice(residuals, level), ops.transpose(values))
        costs = costs + ops.sum(ops.square(values), axis=-1)
        codes, parents, last = grow_beams(codes, costs, greedy, count)
        chosen = space.place(ops.take(values, last, axis=0), level)
        residuals = take_beams(residuals, parents) - chosen
    return codes
