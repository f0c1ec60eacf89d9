"""The prefix trie against a Python dictionary of prefixes."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.decoding import PrefixTrie

pytestmark = pytest.mark.unit


@st.composite
def catalogues(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    product = int(np.prod(sizes))
    keys = draw(st.sets(st.integers(0, product - 1), min_size=1, max_size=40))
    codes = np.stack(np.unravel_index(np.array(draw(st.permutations(sorted(keys)))), sizes), axis=1)
    return codes.astype(np.int32), sizes


def children(trie, depth, node):
    """(code, child) of every child that has leaves, read from the arrays."""
    if depth < trie.dense_depth:
        size = trie.sizes[depth]
        return [(c, node * size + c) for c in range(size)]
    first = trie.first_child[depth].numpy()
    return [(int(trie.codes[depth + 1].numpy()[c]), c) for c in range(first[node], first[node + 1])]


def walk(trie, depth=0, node=0, prefix=()):
    yield prefix, depth, node
    if depth < trie.depth:
        for code, child in children(trie, depth, node):
            yield from walk(trie, depth + 1, child, (*prefix, code))


@settings(deadline=None, max_examples=40)
@given(catalogues(), st.randoms(use_true_random=False))
def test_every_node_counts_its_live_leaves(catalogue, random):
    codes, sizes = catalogue
    trie = PrefixTrie.build(codes, sizes)
    live = np.array([random.random() < 0.6 for _ in codes])
    trie.set_live(live)
    np.testing.assert_array_equal(trie.live_rows, live)
    leaves = {}
    for prefix, depth, node in walk(trie):
        under = (codes[:, :depth] == np.array(prefix, np.int32)).all(axis=1)
        assert int(trie.live_under(depth, tf.constant(node))) == live[under].sum()
        if depth == trie.depth:
            leaves[prefix] = int(trie.leaf_rows.numpy()[node])
        if depth and under.any():
            parent = trie.parents(depth, tf.constant([[node]]))
            assert (prefix[-1], node) in children(trie, depth - 1, int(parent[0, 0]))
    assert leaves == {tuple(row): i for i, row in enumerate(codes.tolist())}


@pytest.mark.parametrize("width", [3, 31, 32, 50])
def test_children_are_those_of_the_node(width):
    rng = np.random.default_rng(width)
    codes = np.stack(np.unravel_index(rng.permutation(9 * width)[: 5 * width], (9, width)), axis=1)
    # The first node has every code, so the widest window is full.
    codes = np.unique(np.concatenate([codes, [(0, code) for code in range(width)]]), axis=0)
    trie = PrefixTrie.build(codes, (9, width))
    assert (trie.branch[1], trie.dense_depth) == (width, 1)
    live = rng.random(len(codes)) < 0.7
    trie.set_live(live)
    found = [np.asarray(part)[0] for part in trie.children(1, tf.range(9)[None, :])]
    assert found[0].shape == (9, trie.windows[1])
    starts = trie.window_start(1, tf.range(9)).numpy()
    for node, (last, alive, inside) in enumerate(zip(*found, strict=True)):
        mine = codes[:, 0] == node
        assert trie.num_children(1, tf.constant([[node]])) == mine.sum() == inside.sum()
        assert last[inside].tolist() == codes[mine, 1].tolist()
        assert alive[inside].tolist() == live[mine].tolist()
        nodes = starts[node] + np.flatnonzero(inside)
        assert (codes[trie.leaf_rows.numpy()[nodes]] == codes[mine]).all()
        assert trie.last_codes(2, tf.constant(nodes)).numpy().tolist() == codes[mine, 1].tolist()


def test_branch_is_the_largest_number_of_children():
    trie = PrefixTrie.build(np.array([[0, 0], [0, 1], [0, 3], [2, 1]]), (200, 4))
    assert trie.dense_depth == 0
    assert trie.branch == (2, 3)


@pytest.mark.parametrize("levels", [3, 4])
def test_at_most_forty_bytes_an_ad(levels):
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 256, (100_000, levels)), axis=0)
    codes = np.concatenate([codes, np.zeros((len(codes), 1), np.int64)], axis=1)
    trie = PrefixTrie.build(codes, (256,) * levels + (64,))
    assert trie.nbytes <= 40 * len(codes)
    assert trie.dense_depth == 2


def test_sizes_beyond_64_bits_fall_back_to_a_lexical_sort():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**20, (500, 4))
    trie = PrefixTrie.build(codes, (2**20,) * 4)
    order = sorted(range(500), key=lambda i: codes[i].tolist())
    assert trie.leaf_rows.numpy().tolist() == order


def test_one_ad():
    trie = PrefixTrie.build(np.array([[3, 1, 0]]), (4, 4, 2))
    assert trie.num_leaves == 1
    assert [int(v[0]) for v in trie.live[:1]] == [1]


@pytest.mark.parametrize(
    ("codes", "sizes", "message"),
    [
        (np.zeros((0, 2), int), (2, 2), "N >= 1"),
        (np.zeros((2, 3), int), (2, 2), "one column per entry"),
        (np.array([[0, 2]]), (2, 2), "in \\[0, size\\)"),
        (np.array([[0, -1]]), (2, 2), "in \\[0, size\\)"),
        (np.array([[0, 1], [0, 1], [1, 1]]), (2, 2), "1 rows of full_codes equal another"),
    ],
)
def test_bad_input_is_named(codes, sizes, message):
    with pytest.raises(ValueError, match=message):
        PrefixTrie.build(codes, sizes)


def test_set_live_refuses_a_wrong_length():
    trie = PrefixTrie.build(np.array([[0, 1], [1, 0]]), (2, 2))
    with pytest.raises(ValueError, match="one flag per catalogue row"):
        trie.set_live(np.ones(3, bool))
