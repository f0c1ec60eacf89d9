"""One step of a beam search over code tuples."""

from typing import Any

from keras import ops


def check_count(count: int, codebook_size: int, levels: int) -> None:
    """Raises ValueError unless there are `count` different code tuples."""
    if not 1 <= count <= codebook_size**levels:
        raise ValueError(f"count must be in [1, {codebook_size}^{levels}], got {count}.")


def grow_beams(codes: Any, costs: Any, greedy: Any, count: int) -> tuple[Any, Any, Any]:
    """Keeps the cheapest children of all beams, the greedy child of beam 0 in front.

    Args:
        codes: Prefixes, int32 `[B, beams, l]`; beam 0 is the greedy one.
        costs: Cost of each child, float `[B, beams, K]`.
        greedy: The code that continues beam 0 greedily, int32 `[B]`.
        count: Beams to keep at most.

    Returns:
        Codes int32 `[B, kept, l + 1]`; parent beam of each, int32 `[B, kept]`; its last code,
        int32 `[B, kept]`.
    """
    beams, size = costs.shape[1], costs.shape[2]
    front = ops.one_hot(greedy, size, dtype="bool")[:, None]
    costs = ops.concatenate([ops.where(front, -float("inf"), costs[:, :1]), costs[:, 1:]], axis=1)
    _, kept = ops.top_k(-ops.reshape(costs, (-1, beams * size)), min(count, beams * size))
    kept = ops.cast(kept, "int32")
    parents, last = kept // size, kept % size
    grown = ops.concatenate([take_beams(codes, parents), last[..., None]], axis=-1)
    return grown, parents, last


def take_beams(values: Any, parents: Any) -> Any:
    """Returns `values` `[B, beams, ...]` of the parent beams int `[B, kept]`."""
    return ops.take_along_axis(values, parents[..., None], axis=1)
