"""De-dup tokens: telling ads with equal codes apart, independent of row order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def assign_tokens(
    taken_codes: np.ndarray,
    taken_dedup: np.ndarray,
    codes: np.ndarray,
    alternatives: np.ndarray | None,
    max_dedup: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Gives every ad a token that is unique among the ads with its codes.

    Tokens count up in row order, so pass rows sorted by ad id. An ad that finds its group full
    (`max_dedup` ads) takes the first of its alternatives with a token left; in each round the
    ads still unplaced are served in row order.

    Args:
        taken_codes: `(M, L)` int32 codes of ads placed earlier, which stay as they are.
        taken_dedup: `(M,)` int32, their tokens.
        codes: `(N, L)` int32.
        alternatives: `(N, n, L)` int32 next-best codes, best first, or None.
        max_dedup: Bound on the ads of one group.

    Returns:
        Final codes `(N, L)` and tokens `(N,)`, int32.

    Raises:
        ValueError: Where an ad finds no free token.
    """
    final = codes.copy()
    dedup = np.full(len(codes), -1, np.int32)
    pending = np.arange(len(codes))
    rounds = 1 + (0 if alternatives is None else alternatives.shape[1])
    for choice in range(rounds):
        proposed = codes[pending] if choice == 0 else alternatives[pending, choice - 1]  # type: ignore[index]
        placed = dedup >= 0
        held = np.concatenate([taken_codes, final[placed]])
        used = np.concatenate([taken_dedup, dedup[placed]]) + 1
        token = _next_tokens(held, used, proposed)
        fits = token < max_dedup
        final[pending[fits]] = proposed[fits]
        dedup[pending[fits]] = token[fits]
        pending = pending[~fits]
        if not len(pending):
            return final, dedup
    raise ValueError(
        f"{len(pending)} ads share their codes with {max_dedup} others (max_dedup={max_dedup}) and "
        f"none of their {rounds - 1} alternatives is free; the first has codes "
        f"{codes[pending[0]].tolist()}. Raise max_dedup, pass more alternatives, or train a "
        "tokenizer with more codes or fewer collisions."
    )


def _next_tokens(held: np.ndarray, used: np.ndarray, proposed: np.ndarray) -> np.ndarray:
    """Token each proposal gets: those used in its group, plus proposals before it in the group."""
    group = group_ids(np.concatenate([held, proposed]))
    held_group, group = group[: len(held)], group[len(held) :]
    occupied = np.zeros(int(max(held_group.max(initial=-1), group.max(initial=-1))) + 1, np.int64)
    np.maximum.at(occupied, held_group, used)
    order = np.argsort(group, kind="stable")
    position = np.arange(len(order))
    first = np.ones(len(order), bool)
    first[1:] = group[order][1:] != group[order][:-1]
    rank = np.empty(len(order), np.int64)
    rank[order] = position - np.maximum.accumulate(np.where(first, position, 0))
    return occupied[group] + rank


def group_ids(codes: np.ndarray) -> np.ndarray:
    """Numbers the rows of `codes` `(N, L)`: `(N,)` int64, equal where the rows are equal."""
    group = np.zeros(len(codes), np.int64)
    for level in range(codes.shape[1]):
        # Re-numbering after each level keeps the combined key below N * codebook_size.
        key = group * (int(codes[:, level].max(initial=0)) + 1) + codes[:, level]
        group = pd.factorize(key)[0]
    return group


def assignment_quality(codes: np.ndarray, final: np.ndarray, codebook_size: int) -> dict[str, Any]:
    """Figures of an assignment: of `codes` as the tokenizer gave them, and of what moved.

    Args:
        codes: `(N, L)` codes before any ad took an alternative.
        final: `(N, L)` codes after.
        codebook_size: Number of codes per level.
    """
    counts = np.bincount(group_ids(codes))
    share = counts / len(codes)
    return {
        "ads": len(codes),
        "distinct_sids": len(counts),
        "collision_share": float(counts[counts > 1].sum() / len(codes)),
        "entropy_nats": float(-(share * np.log(share)).sum()),
        "largest_group": int(counts.max()),
        "used_codes": [len(np.unique(codes[:, level])) for level in range(codes.shape[1])],
        "codebook_size": codebook_size,
        "reassigned_ads": int((codes != final).any(axis=1).sum()),
    }
