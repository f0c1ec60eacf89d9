"""Balanced assignment of a batch by optimal transport."""

from typing import Any

from keras import ops


def sinkhorn_codes(scores: Any, epsilon: float = 0.02, iterations: int = 50) -> Any:
    """Returns codes that share a batch out evenly, at the least total cost.

    Args:
        scores: How well each code fits, float `[B, K]`; more is better.
        epsilon: Entropy of the transport plan, relative to the mean gap between a vector's best
            code and the others. Less is closer to the exact plan and slower to even out.
        iterations: Row and column scalings.

    Returns:
        int32 `[B]`: the code that gets most of the vector in the plan.

    Reference:
        [Cuturi, 2013, Sinkhorn Distances](https://arxiv.org/abs/1306.0895); as an assignment:
        [Zheng et al., 2024, LC-Rec](https://arxiv.org/abs/2311.09049)
    """
    gaps = ops.stop_gradient(ops.max(scores, axis=-1, keepdims=True) - scores)
    # Cut off where float32 could not hold the product of a kernel value and a scaling.
    exponents = ops.minimum(gaps / (epsilon * ops.mean(gaps) + 1e-12), 60.0)
    kernel = ops.exp(-exponents)
    rows, columns = ops.shape(scores)[0], ops.shape(scores)[1]
    share = ops.cast(rows, kernel.dtype) / ops.cast(columns, kernel.dtype)

    def scale(_: Any, column: Any) -> Any:
        row = 1.0 / ops.matmul(kernel, column)
        return share / ops.matmul(ops.transpose(kernel), row)

    column = ops.fori_loop(0, iterations, scale, ops.ones((columns, 1), dtype=kernel.dtype))
    plan = kernel * ops.transpose(column)
    return ops.cast(ops.top_k(plan, 1)[1][:, 0], "int32")
