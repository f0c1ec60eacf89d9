"""What hybrid scores are made of."""

from __future__ import annotations

from typing import Any, NamedTuple


class HybridTerms(NamedTuple):
    """The terms of hybrid scores, weights not yet applied; NumPy's or a backend's arrays.

    Attributes:
        rows: int32 `[B, C]` distinct catalogue rows, -1 where there is no ad.
        sid: float32 `[B, C]` log-probability of the semantic ID, minus infinity where no ad is.
        dense: float32 `[B, C]` log softmax of the dense score, up to a constant of the request.
        followed: float32 `[B, C]` score of the successors' memory; None without one.

    Example:

    >>> terms = HybridTerms(np.array([[3, 5]]), np.array([[-1.0, -2.0]]), np.array([[-4.0, -1.0]]))
    >>> terms.scores(0.5).tolist()
    [[-3.0, -2.5]]
    """

    rows: Any
    sid: Any
    dense: Any
    followed: Any = None

    def scores(self, dense_weight: Any, successor_weight: Any = 0.0) -> Any:
        """Hybrid scores `[B, C]`, minus infinity where there is no ad."""
        total = self.sid + dense_weight * self.dense
        return total if self.followed is None else total + successor_weight * self.followed
