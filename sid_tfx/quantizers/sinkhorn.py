"""Balanced assignment of a batch by optimal transport."""

from typing import Any

from keras import ops

from sid_tfx.quantizers.matching import best

# Entropy of the plan, stage by stage, relative to the mean gap between a vector's best code and
# the others. Small entropy alone would take long to even out and underflow.
_EPSILONS = (0.3, 0.1, 0.03, 0.01)


def sinkhorn_codes(scores: Any, iterations: int = 5) -> Any:
    """Returns codes that share a batch out evenly, at nearly the least total cost.

    Args:
        scores: How well each code fits, float `[B, K]`; more is better.
        iterations: Row and column scalings in each of four stages of falling entropy.

    Returns:
        int32 `[B]`: the code that gets most of the vector in the transport plan.

    Reference:
        [Cuturi, 2013, Sinkhorn Distances](https://arxiv.org/abs/1306.0895); as an assignment:
        [Zheng et al., 2024, LC-Rec](https://arxiv.org/abs/2311.09049)
    """
    scores = ops.stop_gradient(scores)
    rows, columns = ops.shape(scores)[0], ops.shape(scores)[1]
    share = ops.cast(rows, scores.dtype) / ops.cast(columns, scores.dtype)
    scale = ops.mean(ops.max(scores, axis=-1, keepdims=True) - scores) + 1e-12
    for epsilon in _EPSILONS:
        gaps = ops.max(scores, axis=-1, keepdims=True) - scores
        # Cut off where float32 could not hold the product of a kernel value and a scaling.
        kernel = ops.exp(-ops.minimum(gaps / (epsilon * scale), 60.0))
        across = ops.transpose(kernel)

        def rescale(_: Any, column: Any, kernel: Any = kernel, across: Any = across) -> Any:
            return share / ops.matmul(across, 1.0 / ops.matmul(kernel, column))

        ones = ops.ones((columns, 1), dtype=scores.dtype)
        column = ops.fori_loop(0, iterations, rescale, ones)
        scores = scores + epsilon * scale * ops.log(ops.transpose(column))
    return best(scores)
