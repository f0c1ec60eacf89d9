"""The prefix trie of a catalogue as a handful of flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sid_tfx.table_rows import gather_rows

# Neighbours are gathered together: one by one, 256 children of 1,000 nodes are 256,000 gathers.
_BLOCK = 8
# Narrower windows hold more of the neighbours' children than blocks save.
_WIDE = 32


class Children(NamedTuple):
    """The children of nodes `[B, W]` of one depth, each node's in a window of one width `C`.

    Attributes:
        codes: int32 `[B, W, C]`, their last codes, in code order.
        live: int32 `[B, W, C]`, leaves under them that may be returned.
        inside: bool `[B, W, C]`, whether they are children of the node and not a neighbour's.
    """

    codes: tf.Tensor
    live: tf.Tensor
    inside: tf.Tensor


class PrefixTrie(tf.Module):
    """All semantic IDs of a catalogue, one leaf per ad, ready for lookups inside a graph.

    A node at depth `d` is a prefix of `d` codes. The first `dense_depth` depths are *dense*: every
    possible prefix is a node, numbered `prefix[0] * K1 + prefix[1]`, so children need no lookup.
    Deeper depths are *CSR*: the children of node `n` are the nodes `first_child[n]` to
    `first_child[n + 1] - 1` of the next depth, in code order. This is the layout of STATIC
    (youtube/static-constraint-decoding) with live-leaf counts added.

    All arrays are `tf.Variable`s: a catalogue of any size never becomes a graph constant, and
    switching ads off (`set_live`) needs no new graph.

    Attributes:
        sizes: Codes per level; leaves are at depth `len(sizes)`.
        num_leaves: Number of ads.
        num_nodes: Nodes per depth, root included.
        dense_depth: Deepest dense depth.
        branch: Per depth, the most children that any node there has.
        first_child: Per depth from `dense_depth` on, int32 `[nodes + 1]`.
        codes: Per depth from `dense_depth + 1` on, int16 or int32 `[nodes + p]`: the last code,
            with zeros after the last node up to whole blocks.
        occupied: Per dense depth but the root's, bool `[nodes]`: whether an ad has this prefix.
        live: Per depth but the last, int32 `[nodes + p]`: leaves under the node that may be
            returned; zeros after the last node as in `codes`.
        windows: Per depth, the width of what `children` returns, at least `branch`.
        live_rows: bool `[num_leaves]` by catalogue row: the ads that may be returned.
        leaf_rows: int32 `[num_leaves]`: catalogue row of each leaf.
        row_leaves: int32 `[num_leaves]`: leaf of each catalogue row.

    Example:

    >>> trie = PrefixTrie.build(np.array([[0, 1], [2, 0], [0, 3]]), sizes=(4, 4))
    >>> trie.leaf_rows.numpy().tolist()
    [0, 2, 1]
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        first_child: dict[int, np.ndarray],
        codes: dict[int, np.ndarray],
        leaf_rows: np.ndarray,
        branch: tuple[int, ...],
        num_nodes: tuple[int, ...],
        dense_depth: int,
    ) -> None:
        super().__init__(name="prefix_trie")
        self.sizes = sizes
        self.branch = branch
        self.num_nodes = num_nodes
        self.dense_depth = dense_depth
        self.num_leaves = len(leaf_rows)
        self.depth = len(sizes)
        row_leaves = np.empty(len(leaf_rows), np.int32)
        row_leaves[leaf_rows] = np.arange(len(leaf_rows), dtype=np.int32)
        self.leaf_rows = _variable(leaf_rows, "leaf_rows")
        self.row_leaves = _variable(row_leaves, "row_leaves")
        # Lists, because tf.Module tracks no dict with integer keys; None where a depth has none.
        self.first_child = [
            _variable(first_child[d], f"first_child_{d}") if d in first_child else None
            for d in range(self.depth)
        ]
        self.codes = [
            _variable(np.pad(codes[d], (0, self._rest(d))), f"codes_{d}") if d in codes else None
            for d in range(self.depth + 1)
        ]
        self.live = [
            _variable(np.zeros(nodes + self._rest(d), np.int32), f"live_{d}")
            for d, nodes in enumerate(num_nodes[:-1])
        ]
        self.windows = tuple(
            size if d < dense_depth or size < _WIDE else -(-(size + _BLOCK - 1) // _BLOCK) * _BLOCK
            for d, size in enumerate(branch)
        )
        self.live_rows = _variable(np.ones(self.num_leaves, bool), "live_rows")
        self.set_live(tf.ones([self.num_leaves], tf.bool))
        self.occupied = [
            _variable(self.live[d].numpy() > 0, f"occupied_{d}") if 0 < d <= dense_depth else None
            for d in range(self.depth)
        ]

    @classmethod
    def build(cls, full_codes: np.ndarray, sizes: Sequence[int]) -> PrefixTrie:
        """Builds the trie without a loop over ads.

        Args:
            full_codes: `(N, depth)` integers, row `i` the codes (de-dup token last) of catalogue
                row `i`; no two rows equal.
            sizes: Number of codes of each level.

        Raises:
            ValueError: On an empty or misshapen array, codes out of range, or equal rows.
        """
        codes = np.asarray(full_codes)
        level_sizes = tuple(int(size) for size in sizes)
        if codes.ndim != 2 or not len(codes) or codes.shape[1] != len(level_sizes):
            raise ValueError(
                f"full_codes must be (N, {len(level_sizes)}) with N >= 1, one column per entry of "
                f"sizes={level_sizes}; got shape {codes.shape}."
            )
        if (codes.min(axis=0) < 0).any() or (codes.max(axis=0) >= np.array(level_sizes)).any():
            raise ValueError(
                f"full_codes must be in [0, size) per level with sizes={level_sizes}; columns "
                f"reach from {codes.min(axis=0).tolist()} to {codes.max(axis=0).tolist()}."
            )
        order = _sorted_order(codes, level_sizes)
        codes = codes[order].astype(np.int32)
        depth, total = len(level_sizes), len(codes)

        dense_depth, dense_nodes = 0, 1
        # One dense node costs 8 bytes, so no more of them than ads.
        while dense_depth < depth - 1 and dense_nodes * level_sizes[dense_depth] <= total:
            dense_nodes *= level_sizes[dense_depth]
            dense_depth += 1

        prefix = np.zeros(total, np.int64)
        num_nodes, branch = [1], []
        for level in range(dense_depth):
            prefix = prefix * level_sizes[level] + codes[:, level]
            num_nodes.append(num_nodes[-1] * level_sizes[level])
            branch.append(level_sizes[level])

        # First leaf of each node of the depth at hand, with the end as a last entry.
        starts = np.searchsorted(prefix, np.arange(num_nodes[-1] + 1)).astype(np.int32)
        opens = np.zeros(total, bool)
        opens[starts[:-1][starts[:-1] < starts[1:]]] = True
        first_child: dict[int, np.ndarray] = {}
        node_codes: dict[int, np.ndarray] = {}
        for level in range(dense_depth, depth):
            opens[1:] |= codes[1:, level] != codes[:-1, level]
            child_starts = np.append(np.flatnonzero(opens), total).astype(np.int32)
            first_child[level] = np.searchsorted(child_starts, starts).astype(np.int32)
            kind = np.int16 if level_sizes[level] <= np.iinfo(np.int16).max else np.int32
            node_codes[level + 1] = codes[child_starts[:-1], level].astype(kind)
            num_nodes.append(len(child_starts) - 1)
            branch.append(int(np.diff(first_child[level]).max()))
            starts = child_starts
        if num_nodes[-1] != total:
            raise ValueError(
                f"{total - num_nodes[-1]} rows of full_codes equal another row. Give ads with "
                "equal codes different de-dup tokens (SidCatalog.build does)."
            )
        return cls(
            level_sizes,
            first_child,
            node_codes,
            order.astype(np.int32),
            tuple(branch),
            tuple(num_nodes),
            dense_depth,
        )

    @property
    def nbytes(self) -> int:
        """Bytes that all arrays of the trie take."""
        return sum(int(np.prod(v.shape)) * v.dtype.size for v in self.variables)

    def set_live(self, live_rows: tf.Tensor | np.ndarray) -> None:
        """Switches ads on and off for every request; works eagerly and inside a `tf.function`.

        Args:
            live_rows: bool `[N]` by catalogue row: True where the ad may be returned.
        """
        flags = tf.convert_to_tensor(live_rows, tf.bool)
        if flags.shape.rank != 1 or flags.shape[0] not in (None, self.num_leaves):
            raise ValueError(
                f"live_rows must be bool [{self.num_leaves}], one flag per catalogue row, got "
                f"shape {flags.shape}."
            )
        self.live_rows.assign(flags)
        counts = tf.cast(tf.gather(flags, self.leaf_rows), tf.int32)
        for depth in reversed(range(self.depth)):
            if depth >= self.dense_depth:
                sums = tf.concat([[0], tf.cumsum(counts)], axis=0)
                ends = tf.gather(sums, self.first_child[depth])
                counts = ends[1:] - ends[:-1]
            else:
                counts = tf.reduce_sum(tf.reshape(counts, [-1, self.sizes[depth]]), axis=1)
            self.live[depth].assign(tf.pad(counts, [[0, self._rest(depth)]]))

    def children(self, depth: int, nodes: tf.Tensor) -> Children:
        """The children of int32 `nodes` `[B, W]` at `depth`, at least `dense_depth`."""
        below, last = depth + 1, self.num_nodes[depth + 1] - 1
        start = self.window_start(depth, nodes)
        first = gather_rows(self.first_child[depth], nodes) - start
        end = gather_rows(self.first_child[depth], nodes + 1) - start
        place = tf.range(self.windows[depth])
        inside = (place >= first[:, :, None]) & (place < end[:, :, None])
        if self.windows[depth] < _WIDE:
            found = tf.minimum(start[:, :, None] + place, last)
            codes, live = gather_rows(self.codes[below], found), self.live_under(below, found)
        else:
            block = start[:, :, None] // _BLOCK + tf.range(self.windows[depth] // _BLOCK)
            block = tf.minimum(block, last // _BLOCK)
            codes = _gather_blocks(self.codes[below], block)
            if below < self.depth:
                live = _gather_blocks(self.live[below], block)
            else:
                live = self.live_under(below, tf.minimum(start[:, :, None] + place, last))
        return Children(tf.cast(codes, tf.int32), live, inside)

    def window_start(self, depth: int, nodes: tf.Tensor) -> tf.Tensor:
        """The node of `depth + 1` that a window of children begins with, for each of `nodes`."""
        if depth < self.dense_depth:
            return nodes * self.sizes[depth]
        first = gather_rows(self.first_child[depth], nodes)
        # Wide windows are whole blocks from the one that the first child is in.
        return first if self.windows[depth] < _WIDE else first // _BLOCK * _BLOCK

    def last_codes(self, depth: int, nodes: tf.Tensor) -> tf.Tensor:
        """The last code of the prefixes that int32 `nodes` at `depth`, 1 at least, stand for."""
        if depth <= self.dense_depth:
            return nodes % self.sizes[depth - 1]
        return tf.cast(gather_rows(self.codes[depth], nodes), tf.int32)

    def num_children(self, depth: int, nodes: tf.Tensor) -> tf.Tensor:
        """Children of int32 `nodes` at `depth`, at least `dense_depth`, live or not."""
        first = self.first_child[depth]
        return gather_rows(first, nodes + 1) - gather_rows(first, nodes)

    def _rest(self, depth: int) -> int:
        """Entries that fill the last block of the arrays of a depth."""
        return -self.num_nodes[depth] % _BLOCK if depth > self.dense_depth else 0

    def live_under(self, depth: int, nodes: tf.Tensor) -> tf.Tensor:
        """Leaves that may be returned under int32 `nodes` at `depth`, int32 of the same shape."""
        if depth < self.depth:
            return gather_rows(self.live[depth], nodes)
        return tf.cast(gather_rows(self.live_rows, gather_rows(self.leaf_rows, nodes)), tf.int32)

    def parents(self, depth: int, nodes: tf.Tensor) -> tf.Tensor:
        """Nodes at `depth - 1` above the given int32 `nodes` at `depth`, same shape."""
        if depth <= self.dense_depth:
            return nodes // self.sizes[depth - 1]
        # Nodes without children repeat their neighbour's start: "right" finds the one with some.
        found = tf.searchsorted(
            tf.convert_to_tensor(self.first_child[depth - 1]), tf.reshape(nodes, [-1]), side="right"
        )
        return tf.reshape(found - 1, tf.shape(nodes))


def _sorted_order(codes: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    product = 1
    for size in sizes:
        product *= size
    if product >= 2**63:
        return np.lexsort(codes.T[::-1])
    key = np.zeros(len(codes), np.int64)
    for level, size in enumerate(sizes):
        key = key * size + codes[:, level]
    return np.argsort(key, kind="stable")


def _gather_blocks(values: tf.Variable, block: tf.Tensor) -> tf.Tensor:
    """Blocks int32 `[B, W, n]` of values as `[B, W, n * _BLOCK]`."""
    found = tf.gather(tf.reshape(values, [-1, _BLOCK]), block)
    return tf.reshape(found, [-1, *block.shape[1:-1], block.shape[-1] * _BLOCK])


def _variable(values: np.ndarray, name: str) -> tf.Variable:
    return tf.Variable(values, trainable=False, name=name)
