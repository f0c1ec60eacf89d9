"""Slices of a vector."""

import itertools

Slices = list[tuple[int, int]]
"""First dimension and end of each."""


def check_slices(slices: Slices, levels: int, dim: int) -> None:
    """Checks that there is a slice of the vector for each level.

    Raises:
        ValueError: There are more or fewer, or one is empty or outside of the vector.
    """
    if len(slices) != levels:
        raise ValueError(f"slices must have one of levels={levels} each, got {len(slices)}.")
    for start, stop in slices:
        if not 0 <= start < stop <= dim:
            raise ValueError(
                f"slices must hold first dimensions and ends within dim={dim}, got "
                f"({start}, {stop})."
            )


def even_slices(name: str, parts: int, dim: int) -> Slices:
    """Returns first dimension and end of `parts` disjoint slices, sizes differing by at most 1.

    Args:
        name: The argument that `parts` came from, for the error.
        parts: Number of slices.
        dim: D, size of the vector.

    Raises:
        ValueError: There are not `parts` dimensions.
    """
    if not 1 <= parts <= dim:
        raise ValueError(
            f"{name} must be in [1, dim={dim}], a slice of its own for each, got {parts}."
        )
    ends = [dim * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(ends))
