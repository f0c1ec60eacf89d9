"""Swing: item pairs that the same users met, weighed against what those users share anyway.

Source: Yang et al., "Large Scale Product Graph Construction for Recommendation in E-commerce"
(2020), in the form QuaSID (arXiv 2603.00632) mines its trigger-target pairs with.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import sparse

# Entries of the intersection matrix held at once; bounds memory to a few hundred MiB.
_MAX_ENTRIES = 8_000_000


class SwingPairs(NamedTuple):
    """Pairs sorted by trigger, then falling score, then target.

    Attributes:
        trigger: int64 `[pairs]`.
        target: int64 `[pairs]`.
        score: float32 `[pairs]`.
    """

    trigger: np.ndarray
    target: np.ndarray
    score: np.ndarray


def swing_pairs(
    user_rows: np.ndarray,
    item_rows: np.ndarray,
    *,
    alpha: float = 1.0,
    top_k: int = 20,
    max_users_per_item: int = 400,
    single_users: bool = False,
) -> SwingPairs:
    """Mines the targets of every trigger item from an interaction log.

    With `I_u` the distinct items of user u, `U_i` the users of item i, and `w_u = 1/sqrt(|I_u|)`:

    `score(i, j) = sum over {u, v} in U_i and U_j of w_u * w_v / (alpha + |I_u and I_v|)`.

    Args:
        user_rows: User of each event, integers of shape `[events]`.
        item_rows: Item of each event, integers of at least 0, shape `[events]`.
        alpha: Smoothing, above 0.
        top_k: Targets kept for a trigger.
        single_users: Whether one user who met both items is enough: adds the terms u = v,
            `w_u^2 / (alpha + |I_u|)`, which rank below two users who share little else. In a sparse
            log many items have no other pair. The published score leaves them out.
        max_users_per_item: Users taken for a trigger; of a more popular item's users a sample,
            fixed by a hash of user and item, which bounds the quadratic step.

    Returns:
        The pairs; an item that shares no two users with another has none.

    Raises:
        ValueError: An argument is out of range, or the two arrays differ in shape.

    Example:

    >>> pairs = swing_pairs(np.array([0, 0, 1, 1]), np.array([7, 8, 7, 8]))
    >>> pairs.trigger, pairs.target, pairs.score  # 1/sqrt(2) * 1/sqrt(2) / (1 + 2)
    (array([7, 8]), array([8, 7]), array([0.16666667, 0.16666667], dtype=float32))
    """
    users, items = np.asarray(user_rows), np.asarray(item_rows)
    if users.shape != items.shape or users.ndim != 1:
        raise ValueError(
            f"user_rows and item_rows must be vectors of one length, got {users.shape} and "
            f"{items.shape}."
        )
    if max_users_per_item < 2:
        raise ValueError(f"max_users_per_item must be at least 2, got {max_users_per_item}.")
    if not len(items):
        return swing_of_histories(items, np.zeros(1, np.int64), items, alpha=alpha, top_k=top_k)
    if items.min() < 0:
        raise ValueError(f"item_rows must be at least 0, got {items.min()}.")
    log = np.unique(np.stack([users.astype(np.int64), items.astype(np.int64)], axis=1), axis=0)
    _, user, sizes = np.unique(log[:, 0], return_inverse=True, return_counts=True)
    # A user of one item is in no intersection that holds a second one.
    kept = sizes[user] > 1
    user_ids, user = np.unique(log[kept, 0], return_inverse=True)
    item = log[kept, 1]
    sizes = np.bincount(user, minlength=len(user_ids))
    indptr = np.concatenate([[0], np.cumsum(sizes)])

    order = np.lexsort((user_ids[user], _hash(user_ids[user], item), item))
    rank = _rank_in_group(item[order])
    members = np.sort(order[rank < max_users_per_item])
    members = members[np.lexsort((user[members], item[members]))]
    rows = user[members]
    lengths = sizes[rows]
    history = item[np.repeat(indptr[rows], lengths) + _ranges(lengths)]
    return swing_of_histories(
        item[members],
        np.concatenate([[0], np.cumsum(lengths)]),
        history,
        alpha=alpha,
        top_k=top_k,
        single_users=single_users,
    )


def swing_of_histories(
    trigger: np.ndarray,
    indptr: np.ndarray,
    items: np.ndarray,
    *,
    alpha: float = 1.0,
    top_k: int = 20,
    single_users: bool = False,
) -> SwingPairs:
    """Scores triggers whose users' histories are at hand: the step a cluster runs in parallel.

    Args:
        trigger: Trigger item of each (trigger, user) row; equal triggers lie together. Integers,
            shape `[rows]`.
        indptr: Row r's distinct items are `items[indptr[r]:indptr[r + 1]]`, shape `[rows + 1]`.
        items: Distinct items of each row's user, the trigger among them, integers of at least 0.
        alpha: Smoothing, above 0.
        top_k: Targets kept for a trigger; ties go to the smaller item.
        single_users: Whether one user who met both items is enough, see `swing_pairs`.

    Returns:
        The pairs of these triggers.

    Raises:
        ValueError: `alpha` or `top_k` is out of range.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}.")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}.")
    empty = SwingPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    if not len(trigger):
        return empty
    names, columns = np.unique(items, return_inverse=True)
    matrix = sparse.csr_matrix(
        (np.ones(len(items), np.int32), columns, indptr), shape=(len(trigger), len(names))
    )
    lengths = np.diff(indptr)
    weight = 1.0 / np.sqrt(lengths)
    starts = np.flatnonzero(np.append(True, trigger[1:] != trigger[:-1]))
    users = np.diff(np.append(starts, len(trigger)))
    group = np.repeat(np.arange(len(starts)), users)
    # Row r is paired with each later row of its group.
    later = (starts + users)[group] - np.arange(len(trigger)) - 1
    own_column = np.searchsorted(names, trigger)
    parts = [
        _scores_of_rows(matrix, weight, own_column, later, first, last, alpha)
        for first, last in _blocks(later * lengths)
    ]
    if single_users:
        parts.append(_scores_of_single_users(matrix, weight, own_column, alpha))
    rows, targets, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    key = group[rows] * len(names) + targets
    unique, position = np.unique(key, return_inverse=True)
    # bincount adds in the order of the rows: the same sums whatever shares the call.
    total = np.bincount(position, scores, minlength=len(unique)).astype(np.float32)
    owner, target = unique // len(names), names[unique % len(names)]
    own = trigger[starts][owner]
    order = np.lexsort((target, -total, own))
    order = order[_rank_in_group(own[order]) < top_k]
    return SwingPairs(own[order].astype(np.int64), target[order].astype(np.int64), total[order])


def _scores_of_rows(
    matrix: sparse.csr_matrix,
    weight: np.ndarray,
    own_column: np.ndarray,
    later: np.ndarray,
    first: int,
    last: int,
    alpha: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and weight of what rows `[first, last)` share with a later row of their group.

    The trigger itself is left out: it is no target, and most pairs of users share nothing else.
    """
    left = np.repeat(np.arange(first, last), later[first:last])
    right = left + 1 + _ranges(later[first:last])
    shared = matrix[left].multiply(matrix[right]).tocsr()
    count = np.diff(shared.indptr)
    score = np.repeat(weight[left] * weight[right] / (alpha + count), count)
    row = np.repeat(left, count)
    other = shared.indices != own_column[row]
    return row[other], shared.indices[other].astype(np.int64), score[other]


def _scores_of_single_users(
    matrix: sparse.csr_matrix, weight: np.ndarray, own_column: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and weight of what each row's user met, the trigger itself left out."""
    lengths = np.diff(matrix.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    other = matrix.indices != own_column[row]
    score = (weight**2 / (alpha + lengths))[row]
    return row[other], matrix.indices[other].astype(np.int64), score[other]


def _blocks(entries: np.ndarray) -> list[tuple[int, int]]:
    """Cuts rows into runs of about `_MAX_ENTRIES` entries, at least one row each."""
    bucket = (np.cumsum(entries) - entries) // _MAX_ENTRIES
    cuts = np.flatnonzero(np.diff(bucket)) + 1
    edges = [0, *cuts.tolist(), len(entries)]
    return list(itertools.pairwise(edges))


def _ranges(lengths: np.ndarray) -> np.ndarray:
    """`[0, 1, .., lengths[0] - 1, 0, 1, ..]`."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _rank_in_group(keys: np.ndarray) -> np.ndarray:
    """Position of each element within its run of equal keys."""
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else keys
    return np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))


def _hash(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """A fixed 64-bit hash of each (user, item): splitmix64."""
    with np.errstate(over="ignore"):
        value = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + items.astype(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
