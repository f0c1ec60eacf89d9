"""Beam search against exhaustive search, and the promises it makes to a request."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.decoding import PrefixTrie, beam_search

pytestmark = pytest.mark.unit


def table_model(tables, batch):
    """A model whose next-code scores depend on the whole prefix, looked up in random tables."""

    def next_log_probs(level, prefix, state):
        key = tf.zeros(tf.shape(prefix)[:2], tf.int32)
        for i in range(level):
            key = key * tables[i].shape[-1] + prefix[:, :, i]
        return tf.gather(tf.constant(tables[level]), key, batch_dims=1), state

    return next_log_probs


def exhaustive(tables, codes, renormalize=False):
    """float32 [B, N]: every ad's log-probability."""
    scores = np.zeros((tables[0].shape[0], len(codes)), np.float32)
    key = np.zeros(len(codes), np.int64)
    for level, table in enumerate(tables):
        if renormalize:
            there = np.zeros(table.shape[1:], bool)
            there[key, codes[:, level]] = True
            total = np.exp(np.where(there, table.astype(np.float64), -np.inf)).sum(axis=2)
            table = table - np.log(np.where(there.any(axis=1), total, 1.0))[:, :, None]
        scores = scores + table[:, key, codes[:, level]]
        key = key * table.shape[-1] + codes[:, level]
    return scores


@st.composite
def problems(draw):
    # Of 40 codes and more a trie reads children in blocks.
    wide = st.sampled_from([(2, 40), (3, 2, 41), (2, 50, 3)])
    narrow = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
    sizes = draw(st.one_of(narrow, wide))
    product = int(np.prod(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    if max(sizes) > 5:
        keys = rng.permutation(product)[: draw(st.integers(1, product))]
    else:
        keys = draw(st.sets(st.integers(0, product - 1), min_size=1, max_size=40))
        keys = np.array(draw(st.permutations(sorted(keys))))
    codes = np.stack(np.unravel_index(keys, sizes), axis=1)
    batch = draw(st.integers(1, 3))
    tables, prefixes = [], 1
    for size in sizes:
        table = rng.normal(size=(batch, prefixes, size)).astype(np.float32)
        # A model may rule codes out altogether.
        table[rng.random(table.shape) < 0.1] = draw(st.sampled_from([0.0, -np.inf]))
        tables.append(table)
        prefixes *= size
    live = rng.random(len(codes)) < draw(st.sampled_from([1.0, 0.7, 0.2]))
    excluded = rng.integers(-1, len(codes), (batch, draw(st.integers(0, 12)))).astype(np.int32)
    return codes.astype(np.int32), sizes, tables, live, excluded


def allowed_mask(live, excluded):
    mask = np.tile(live, (len(excluded), 1))
    for b, rows in enumerate(excluded):
        mask[b, rows[rows >= 0]] = False
    return mask


@settings(deadline=None, max_examples=60)
@given(problems(), st.integers(1, 45), st.booleans())
def test_equals_exhaustive_search_when_the_beam_covers_the_catalogue(problem, k, renormalize):
    codes, sizes, tables, live, excluded = problem
    if renormalize:
        # Where a model rules out all that the catalogue has, there is nothing to normalize.
        tables = [np.maximum(table, -20.0) for table in tables]
    trie = PrefixTrie.build(codes, sizes)
    trie.set_live(live)
    batch = len(excluded)
    rows, scores, count = beam_search(
        table_model(tables, batch), trie, len(codes), k, batch, tf.constant(excluded),
        renormalize=renormalize,
    )  # fmt: skip
    truth = exhaustive([np.maximum(t, -1e9) for t in tables], codes, renormalize)
    truth = np.maximum(truth, -4e9)
    truth = np.where(allowed_mask(live, excluded), truth, -np.inf)
    want = -np.sort(-truth, axis=1)[:, :k]
    assert rows.shape == (batch, k)
    np.testing.assert_allclose(scores[:, : want.shape[1]], want, rtol=1e-5, atol=1e-5)
    for b in range(batch):
        n = int(count[b])
        assert n == min(k, int(np.isfinite(truth[b]).sum()))
        found = rows.numpy()[b]
        assert (found[n:] == -1).all()
        np.testing.assert_allclose(truth[b, found[:n]], scores.numpy()[b, :n], rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(problems(), st.integers(1, 12), st.integers(0, 6), st.booleans())
def test_a_narrow_beam_keeps_its_promises(problem, k, extra, renormalize):
    codes, sizes, tables, live, excluded = problem
    trie = PrefixTrie.build(codes, sizes)
    trie.set_live(live)
    batch = len(excluded)
    rows, scores, count = beam_search(
        table_model(tables, batch), trie, k + extra, k, batch, tf.constant(excluded),
        renormalize=renormalize,
    )  # fmt: skip
    mask = allowed_mask(live, excluded)
    for b in range(batch):
        n = int(count[b])
        found = rows.numpy()[b, :n]
        # K results wherever K ads may be returned and the beam is at least K wide.
        assert n == min(k, int(mask[b].sum()))
        assert len(set(found.tolist())) == n
        assert mask[b, found].all()
        assert (np.diff(scores.numpy()[b, :n]) <= 1e-5).all()


def cached(tables):
    """The same model, fed one code at a time: the state is all it knows of the codes before."""

    def next_log_probs(level, prefix, state):
        key, seen = state["key"], state["seen"]
        if level:
            key = key * tables[level - 1].shape[-1] + prefix[:, :, -1]
            seen = tf.concat([seen, prefix[:, :, -1:, None]], axis=2)
        log_probs = tf.gather(tf.constant(tables[level]), key, batch_dims=1)
        # A state that was not carried along with its beam shows at the next level.
        same = tf.reduce_all(seen[..., 0] == prefix, axis=2, keepdims=True)
        return tf.where(same, log_probs, np.nan), {"key": key, "seen": seen}

    return next_log_probs


@settings(deadline=None, max_examples=30)
@given(problems(), st.integers(1, 12))
def test_state_follows_its_beam(problem, width):
    codes, sizes, tables, live, excluded = problem
    trie = PrefixTrie.build(codes, sizes)
    trie.set_live(live)
    batch = len(excluded)
    start = {
        "key": tf.zeros([batch, 1], tf.int32),
        "seen": tf.zeros([batch, 1, 0, 1], tf.int32),
    }
    excluded = tf.constant(excluded)
    want = beam_search(table_model(tables, batch), trie, width, width, batch, excluded)
    got = beam_search(cached(tables), trie, width, width, batch, excluded, start)
    np.testing.assert_array_equal(got.rows, want.rows)
    np.testing.assert_array_equal(got.scores, want.scores)


def toy():
    """Two levels of three codes; the best first code has the worst ads."""
    codes = np.array([[0, 0], [0, 1], [1, 0], [2, 1], [2, 2]])
    first = np.log([[0.5, 0.3, 0.2]]).astype(np.float32)[:, None, :]
    second = np.log([[[0.6, 0.1, 0.3], [0.9, 0.05, 0.05], [0.1, 0.2, 0.7]]], dtype=np.float32)
    return PrefixTrie.build(codes, (3, 3)), [first, second]


def test_toy_logits_with_a_known_answer():
    trie, tables = toy()
    rows, scores, count = beam_search(table_model(tables, 1), trie, 3, 5, 1)
    assert rows.numpy().tolist() == [[0, 2, 4, 1, 3]]
    np.testing.assert_allclose(np.exp(scores), [[0.30, 0.27, 0.14, 0.05, 0.04]], rtol=1e-5)
    assert count.numpy().tolist() == [5]


def test_a_beam_of_one_is_greedy():
    trie, tables = toy()
    rows, _, count = beam_search(table_model(tables, 1), trie, 1, 3, 1)
    assert rows.numpy().tolist() == [[0, 1, -1]]
    assert count.numpy().tolist() == [2]


def test_exclusions_prune_before_the_beam_is_cut():
    trie, tables = toy()
    # With both ads under code 0 excluded, a beam of one must not waste itself on code 0.
    result = beam_search(table_model(tables, 1), trie, 1, 1, 1, tf.constant([[1, 0, 0, -1, 99]]))
    assert result.rows.numpy().tolist() == [[2]]


def test_switched_off_ads_never_appear():
    trie, tables = toy()
    trie.set_live(np.array([False, False, False, True, True]))
    result = beam_search(table_model(tables, 1), trie, 3, 5, 1, tf.constant([[0, 4]]))
    assert result.rows.numpy().tolist() == [[3, -1, -1, -1, -1]]
    trie.set_live(np.zeros(5, bool))
    assert beam_search(table_model(tables, 1), trie, 3, 2, 1).count.numpy().tolist() == [0]


def test_nan_from_a_model_still_gives_catalogue_ads():
    trie, _ = toy()
    result = beam_search(
        lambda level, prefix, _: (tf.fill([1, prefix.shape[1], 3], np.nan), ()), trie, 5, 5, 1
    )
    assert sorted(result.rows.numpy()[0].tolist()) == [0, 1, 2, 3, 4]


def test_one_graph_for_any_batch_with_no_catalogue_constant():
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 32, (3000, 3)), axis=0)
    trie = PrefixTrie.build(codes, (32, 32, 32))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.int32)])
    def search(excluded):
        batch = tf.shape(excluded)[0]
        model = lambda level, prefix, _: (tf.zeros([batch, prefix.shape[1], 32]), ())  # noqa: E731
        return beam_search(model, trie, 20, 10, batch, excluded)

    for batch in (1, 7):
        result = search(np.full((batch, 4), -1, np.int32))
        assert result.rows.shape == (batch, 10)
        assert (result.count.numpy() == 10).all()
    graph = search.get_concrete_function().graph.as_graph_def()
    assert graph.ByteSize() < 200_000
    trie.set_live(np.arange(len(codes)) >= len(codes) - 3)
    assert search(np.full((1, 4), -1, np.int32)).count.numpy().tolist() == [3]


@pytest.mark.parametrize(("beam", "k"), [(0, 1), (1, 0)])
def test_sizes_must_be_positive(beam, k):
    trie, tables = toy()
    with pytest.raises(ValueError, match="must be >= 1"):
        beam_search(table_model(tables, 1), trie, beam, k, 1)


@pytest.mark.parametrize(("renormalize", "asked"), [(True, [[2]]), (False, [[3], [2], [1], [0]])])
def test_at_the_last_level_shared_prefixes_alone_are_asked_for(renormalize, asked):
    codes = np.array([[0, 0], [1, 0], [2, 0], [2, 1], [3, 0]])
    seen = []

    def next_log_probs(level, prefix, state):
        seen.append(prefix.numpy().tolist())
        chances = [[[0.1, 0.2, 0.3, 0.4]]] if level == 0 else [[[0.25, 0.75]] * prefix.shape[1]]
        return tf.math.log(tf.constant(chances * 2)), state

    trie = PrefixTrie.build(codes, (4, 2))
    found = beam_search(next_log_probs, trie, 4, 5, 2, renormalize=renormalize)
    assert seen == [[[[]]] * 2, [asked] * 2]
    # The only ad of a prefix has its probability, but where codes count that nobody has.
    alone = 1.0 if renormalize else 0.25
    want = {0: 0.1 * alone, 1: 0.2 * alone, 2: 0.3 * 0.25, 3: 0.3 * 0.75, 4: 0.4 * alone}
    order = sorted(want, key=lambda row: -want[row])
    for rows, scores in zip(found.rows.numpy(), found.scores.numpy(), strict=True):
        assert rows.tolist() == order
        np.testing.assert_allclose(np.exp(scores), [want[row] for row in order], rtol=1e-5)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("graph", [False, True])
def test_ads_of_distinct_prefixes_need_no_last_level(beam_size, graph):
    def next_log_probs(level, prefix, state):
        if level:
            # A graph holds the call, but does not come to it.
            tf.debugging.assert_negative(prefix)
            return tf.zeros([1, 1, 2]), state
        return tf.math.log([[[0.1, 0.2, 0.3, 0.4]]]), state

    # The prefix that two ads share is not among the kept ones.
    trie = PrefixTrie.build(np.array([[0, 0], [0, 1], [1, 1], [2, 0], [3, 0]]), (4, 2))
    search = lambda: beam_search(next_log_probs, trie, beam_size, 3, 1, renormalize=True)  # noqa: E731
    found = (tf.function(search) if graph else search)()
    assert found.rows.numpy().tolist() == [[4, 3, 2][:beam_size] + [-1] * (3 - beam_size)]
    want = np.array([[0.4, 0.3, 0.2]])[:, :beam_size]
    np.testing.assert_allclose(np.exp(found.scores)[:, :beam_size], want, rtol=1e-5)


def test_the_last_level_is_asked_for_as_many_beams_as_the_neediest_request_has():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [3, 1]])
    chances = np.array([[[0.4, 0.3, 0.2, 0.1]], [[0.1, 0.2, 0.3, 0.4]], [[0.3, 0.1, 0.2, 0.4]]])
    seen = []

    def next_log_probs(level, prefix, state):
        seen.append(prefix.numpy().tolist())
        last = np.tile([0.25, 0.75], (*prefix.shape[:2], 1))
        return tf.math.log(last if level else chances), state

    trie = PrefixTrie.build(codes, (4, 2))
    found = beam_search(next_log_probs, trie, 2, 2, 3, renormalize=True)
    # Both kept prefixes of the first request are shared, none of the second's, one of the third's.
    assert [beams[:count] for beams, count in zip(seen[1], (2, 0, 1), strict=True)] == [
        [[0], [1]],
        [],
        [[0]],
    ]
    assert all(len(beams) == 2 for beams in seen[1])
    assert found.rows.numpy().tolist() == [[1, 3], [5, 4], [5, 1]]
    want = [[0.4 * 0.75, 0.3 * 0.75], [0.4, 0.3], [0.4, 0.3 * 0.75]]
    np.testing.assert_allclose(np.exp(found.scores), want, rtol=1e-5)
