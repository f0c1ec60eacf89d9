"""Beam search over a prefix trie: exact constraints, static shapes, one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from sid_tfx.decoding.trie import PrefixTrie
from sid_tfx.table_rows import gather_rows

# Stands for a log-probability of minus infinity or NaN, so that a live ad the model rules out
# still ranks above "no ad", which alone is minus infinity.
LOG_PROB_FLOOR = -1e9

# Tensors `[B, W, ...]`, one row per beam, in any nest of tuples, lists and dicts; () is none.
BeamState = Any
NextLogProbs = Callable[[int, tf.Tensor, BeamState], tuple[tf.Tensor, BeamState]]


class BeamResult(NamedTuple):
    """What a search returns, best first.

    Attributes:
        rows: int32 `[B, K]`, catalogue rows, -1 past the last result.
        scores: float32 `[B, K]`, log-probabilities, minus infinity past the last result.
        count: int32 `[B]`, number of results.
    """

    rows: tf.Tensor
    scores: tf.Tensor
    count: tf.Tensor


def beam_search(
    next_log_probs: NextLogProbs,
    trie: PrefixTrie,
    beam_size: int,
    k: int,
    batch_size: int | tf.Tensor,
    excluded_rows: tf.Tensor | None = None,
    state: BeamState = (),
    renormalize: bool = False,
) -> BeamResult:
    """Finds the ads with the most probable codes among those that may be returned.

    Level by level, the search extends every kept prefix by every code that leads to at least one
    live ad that the request doesn't exclude, and keeps the `beam_size` best. Dead branches are
    thus never kept: `k` results come back wherever `k` such ads exist and `beam_size >= k`. With
    `beam_size` at least the number of ads the search is exhaustive.

    The model is a function. What it computes once per request (a user state, the keys and values
    of the history) is its own affair, held in a closure. What belongs to a *beam*, the keys and
    values of the codes so far for one, is `state`: the function gets it in the order of `prefix`
    and returns that of the next level, and the search carries each kept beam's part along. The
    loop over levels is unrolled, so the state may grow from level to level: a cache of codes is a
    `tf.concat`, with static shapes.

    Args:
        next_log_probs: Called once per level as `next_log_probs(level, prefix, state)` with
            `prefix` int32 `[B, W, level]`, the codes so far, and the state of these beams; returns
            log-probabilities of the next code, float `[B, W, sizes[level]]`, and the new state,
            tensors `[B, W, ...]`. `W` is static, 1 at level 0, and differs between levels. The
            last level of a search that renormalizes is the exception: there `W` is the most
            kept prefixes of a request that ads share, and without any there is no call. Prefixes
            of fewer than `W` live nodes are padded with arbitrary codes, whose result is ignored.
        trie: The catalogue.
        beam_size: Prefixes kept after each level.
        k: Results per request.
        batch_size: `B`, a number or a scalar tensor.
        excluded_rows: Optional int32 `[B, E]`, catalogue rows not to return, -1 for padding.
            Repeated rows are fine.
        state: State at level 0: tensors `[B, 1, ...]` in any nest, the axes after the second
            static; `()` for a model without.
        renormalize: Whether log-probabilities are normalized over the codes that the catalogue
            has after a prefix, so that those of all its ads sum to one. An ad that is excluded or
            switched off keeps its share: it changes no other ad's score.

    Returns:
        A `BeamResult`. Ties keep the order of the codes.

    Example:

    >>> trie = PrefixTrie.build(np.array([[0, 1], [2, 0], [0, 3]]), sizes=(4, 4))
    >>> uniform = lambda level, prefix, state: (tf.zeros([1, prefix.shape[1], 4]), state)
    >>> beam_search(uniform, trie, 3, 3, 1, tf.constant([[2]])).rows.numpy().tolist()
    [[0, 1, -1]]
    """
    if beam_size < 1 or k < 1:
        raise ValueError(f"beam_size and k must be >= 1, got beam_size={beam_size}, k={k}.")
    excluded = None if excluded_rows is None else _excluded_leaves(trie, excluded_rows)
    ancestors = None if excluded is None else _ancestors(trie, excluded[0])

    # Which request a row of `[B, W]` is of; times W, where the rows of the request begin.
    request = tf.range(batch_size)[:, None]
    # From here on W is static in every tensor, which the reshapes below rely on.
    nodes = tf.zeros([batch_size, 1], tf.int32)
    scores = tf.zeros([batch_size, 1], tf.float32)
    prefix = tf.zeros([batch_size, 1, 0], tf.int32)
    width = 1
    for level in range(trie.depth):
        last = level == trie.depth - 1
        if last and renormalize:
            log_probs, row = _last_log_probs(next_log_probs, trie, request, nodes, prefix, state)
        else:
            row = request * width + tf.range(width)
            log_probs, state = next_log_probs(level, prefix, state)
            log_probs = _rows(log_probs, trie.sizes[level])
        live, inside, total = _expand(trie, level, nodes, scores, log_probs, row, renormalize)
        if excluded is not None and ancestors is not None:
            live -= _excluded_counts(trie, level, nodes, ancestors, excluded[1])
        window = trie.windows[level]
        total = tf.where((live > 0) & inside, total, float("-inf"))
        most = min(width * trie.branch[level], trie.num_nodes[level + 1])
        kept = min(k if last else beam_size, most)
        scores, best = tf.math.top_k(tf.reshape(total, [-1, width * window]), k=kept)
        parents = request * width + best // window
        nodes = _take_beams(trie.window_start(level, nodes), parents) + best % window
        # What fills up too short a list may stand behind the last node.
        nodes = tf.minimum(nodes, trie.num_nodes[level + 1] - 1)
        if not last:
            codes = trie.last_codes(level + 1, nodes)
            prefix = tf.concat([_take_beams(prefix, parents), codes[:, :, None]], axis=2)
            state = tf.nest.map_structure(lambda x, at=parents: _take_beams(x, at), state)
        width = kept
    found = scores > float("-inf")
    rows = tf.where(found, gather_rows(trie.leaf_rows, nodes), -1)
    padding = [[0, 0], [0, k - width]]
    return BeamResult(
        tf.pad(rows, padding, constant_values=-1),
        tf.pad(scores, padding, constant_values=float("-inf")),
        tf.reduce_sum(tf.cast(found, tf.int32), axis=1),
    )


def _last_log_probs(
    next_log_probs: NextLogProbs,
    trie: PrefixTrie,
    request: tf.Tensor,
    nodes: tf.Tensor,
    prefix: tf.Tensor,
    state: BeamState,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Log-probabilities of the last code where more than one ad has the prefix of a beam `[B, W]`.

    Of most prefixes of a good catalogue one ad is left, whose probability is then 1. The model is
    asked for as many beams as the request with the most others has, and not at all if none has.

    Returns:
        Log-probabilities `[R, sizes[-1]]`, and int32 `[B, W]`: which row is a beam's; any row for
        those that are decided.
    """
    level = trie.depth - 1
    size, width = trie.sizes[level], nodes.shape[1]
    shared = tf.cast(trie.num_children(level, nodes) > 1, tf.int32)
    place = tf.cumsum(shared, axis=1)
    most = tf.maximum(tf.reduce_max(place), 1)

    def ask() -> tf.Tensor:
        # The first of equals comes first.
        order = request * width + tf.math.top_k(shared, k=most).indices
        asked, own = tf.nest.map_structure(lambda x: _take_beams(x, order), (prefix, state))
        return _rows(next_log_probs(level, asked, own)[0], size)

    nothing = tf.zeros([tf.shape(nodes)[0], size])
    log_probs = tf.cond(tf.reduce_any(shared > 0), ask, lambda: nothing)
    return log_probs, request * most + tf.maximum(place - 1, 0)


def _rows(log_probs: tf.Tensor, size: int) -> tf.Tensor:
    """float32 `[R, size]` of `[B, W, size]`."""
    return tf.reshape(tf.cast(log_probs, tf.float32), [-1, size])


def _expand(
    trie: PrefixTrie,
    level: int,
    nodes: tf.Tensor,
    scores: tf.Tensor,
    log_probs: tf.Tensor,
    row: tf.Tensor,
    renormalize: bool,
) -> tuple[tf.Tensor, tf.Tensor | bool, tf.Tensor]:
    """Live leaves, whether a child is the node's own, and its score, `[B, W, window]` each.

    Args:
        scores: Log-probabilities `[B, W]` of the nodes.
        log_probs: `[R, sizes[level]]`; at a dense level one row a node.
        row: int32 `[B, W]`: whose row of `log_probs` is whose.
    """
    size = trie.sizes[level]
    if level < trie.dense_depth:
        step = tf.reshape(log_probs, [-1, *nodes.shape[1:], size])
        live = tf.gather(tf.reshape(trie.live[level + 1], [-1, size]), nodes)
        there = True
        if renormalize:
            there = tf.gather(tf.reshape(trie.occupied[level + 1], [-1, size]), nodes)
    else:
        codes, live, there = trie.children(level, nodes)
        step = tf.gather(tf.reshape(log_probs, [-1]), row[:, :, None] * size + codes)
    if not renormalize:
        return live, there, scores[:, :, None] + _floored(step)
    step = _floored(step, there)
    step -= tf.reduce_max(step, axis=2, keepdims=True)
    scores -= tf.math.log(tf.reduce_sum(tf.exp(step), axis=2))
    return live, there, scores[:, :, None] + step


def _floored(log_probs: tf.Tensor, there: tf.Tensor | bool = True) -> tf.Tensor:
    """`LOG_PROB_FLOOR` where they are lower, NaN or not `there`."""
    # Written as a comparison for the sake of NaN.
    return tf.where((log_probs > LOG_PROB_FLOOR) & there, log_probs, LOG_PROB_FLOOR)


def _excluded_leaves(trie: PrefixTrie, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Leaves `[B, E]` of the excluded rows and 1 where one counts: valid, live, not a repeat."""
    rows = tf.sort(tf.cast(rows, tf.int32), axis=1)
    repeat = tf.pad(rows[:, 1:] == rows[:, :-1], [[0, 0], [1, 0]])[:, : tf.shape(rows)[1]]
    valid = (rows >= 0) & (rows < trie.num_leaves) & ~repeat
    rows = tf.clip_by_value(rows, 0, trie.num_leaves - 1)
    counts = tf.cast(valid & gather_rows(trie.live_rows, rows), tf.int32)
    return gather_rows(trie.row_leaves, rows), counts


def _ancestors(trie: PrefixTrie, leaves: tf.Tensor) -> list[tf.Tensor]:
    """Nodes above the leaves, by depth, the leaves themselves last."""
    nodes = [leaves]
    for depth in range(trie.depth, 0, -1):
        nodes.append(trie.parents(depth, nodes[-1]))
    return nodes[::-1]


def _excluded_counts(
    trie: PrefixTrie,
    level: int,
    nodes: tf.Tensor,
    ancestors: list[tf.Tensor],
    weights: tf.Tensor,
) -> tf.Tensor:
    """Excluded live leaves under each child of `nodes`, int32 `[B, W, window]`."""
    window = trie.windows[level]
    above, below = ancestors[level], ancestors[level + 1]
    position = below - trie.window_start(level, above)
    # The excluded ads are few, the children many: find the beam each ad is under, then scatter.
    batch, width = tf.shape(nodes)[0], tf.shape(nodes)[1]
    under = above[:, :, None] == nodes[:, None, :]
    beam = tf.argmax(under, axis=2, output_type=tf.int32)
    weights = tf.where(tf.reduce_any(under, axis=2), weights, 0)
    flat = (tf.range(batch)[:, None] * width + beam) * window + position
    counts = tf.scatter_nd(
        tf.reshape(flat, [-1, 1]), tf.reshape(weights, [-1]), [batch * width * window]
    )
    return tf.reshape(counts, [batch, width, window])


def _take_beams(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Rows `index` `[B, W']` of values `[B, W, ...]` with both first axes made one."""
    return tf.gather(tf.reshape(values, [-1, *values.shape[2:]]), index)
