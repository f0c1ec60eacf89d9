"""The decoder over models that are not the item-level recommender."""

import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.catalog import SidCatalog
from sid_tfx.decodable import Cached
from sid_tfx.decoder import SidDecoder
from sid_tfx.export import custom_ops
from sid_tfx.recommender import SidRecommender
from sid_tfx.retrieval import BruteForce, Partitioned
from tests import fresh_process

pytestmark = pytest.mark.unit

ADS = 40


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    catalog = SidCatalog.build(
        [f"ad{i:03d}" for i in range(ADS)],
        rng.integers(0, 5, (ADS, 2)),
        rng.normal(size=(ADS, 8)),
        5,
        max_dedup=8,
    )
    return SidRecommender.for_catalog(catalog, hidden_size=16, num_heads=2, head_size=16)


class CachedModel:
    """The recommender, asked one code at a time: the cache holds the codes of each beam."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def initial_cache(self, state):
        return tf.zeros([tf.shape(state)[0], 1, 0], tf.int32)

    def cached_log_probs(self, state, prefix, cache):
        if prefix.shape[-1]:
            cache = tf.concat([cache, prefix[..., -1:]], axis=2)
        return self._model.next_log_probs(state, cache), cache


def test_a_cache_follows_its_beam(model):
    cached = CachedModel(model)
    assert isinstance(cached, Cached)
    rows = tf.constant([[1, 2, 3], [9, 0, 0]])
    want = SidDecoder(model, beam_size=7).recommend(rows, 7, filter_seen=True)
    got = SidDecoder(cached, beam_size=7).recommend(rows, 7, filter_seen=True)
    np.testing.assert_array_equal(got.rows, want.rows)
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-6)


def dense_index(model, **kwargs):
    return BruteForce(k=5, **kwargs).index(np.asarray(model.item_vectors()))


@pytest.mark.parametrize("seen", [False, True])
def test_an_index_finds_what_scoring_every_ad_finds(model, seen):
    rows = tf.constant([[5, 9, 2, 7], [7, 1, 0, 0], [40, 39, 38, 37]])
    excluded = tf.constant([[3, 3, -1], [0, 1, 2], [-1, -1, -1]])
    live = np.arange(ADS) % 5 > 0
    answers = []
    for index in (None, dense_index(model)):
        # A beam of one and a request for more: most results are the dense side's.
        decoder = SidDecoder(model, beam_size=1, dense_candidates=ADS, index=index)
        decoder.trie.set_live(live)
        answers.append(decoder.recommend(rows, 12, "hybrid", excluded, seen))
    exact, indexed = answers
    np.testing.assert_array_equal(indexed.rows, exact.rows)
    assert (indexed.count.numpy() == 12).all()
    # One number a request is between the two scores, the softmax's denominator.
    shift = indexed.scores.numpy() - exact.scores.numpy()
    np.testing.assert_allclose(shift, np.repeat(shift[:, :1], 12, axis=1), atol=1e-4)
    assert (shift >= -1e-4).all()


def test_an_index_looks_past_ads_that_are_off(model):
    rows = tf.constant([[5, 9, 2, 7]])
    best = np.argsort(-np.asarray(model.dense_scores(model.user_state(rows)))[0])
    decoder = SidDecoder(model, beam_size=1, dense_candidates=3, index=dense_index(model))
    live = np.zeros(ADS, bool)
    live[best[-6:]] = True
    decoder.trie.set_live(live)
    found = decoder.recommend(rows, 1, "hybrid").rows.numpy()[0, 0]
    state = model.user_state(rows)
    # The beam's one ad and the three best of those that are on, though 34 better ones are off.
    beam = SidDecoder(model, beam_size=1)
    beam.trie.set_live(live)
    candidates = {*best[-6:-3], int(beam.recommend(rows, 1).rows[0, 0])}
    everything = np.arange(1, ADS + 1)[None]
    dense = np.asarray(tf.nn.log_softmax(model.dense_scores(state)))[0]
    truth = np.asarray(model.sid_log_probs(state, everything))[0] + dense
    assert found == max(candidates, key=lambda row: truth[row])


def test_hybrid_is_the_sid_score_plus_the_weighted_dense_score_of_every_candidate(model):
    rows = tf.constant([[5, 9, 2, 7], [7, 1, 0, 0]])
    model.dense_weight.assign(0.4)
    try:
        decoder = SidDecoder(model, beam_size=3, dense_candidates=6)
        found = decoder.recommend(rows, 9, "hybrid")
        state = model.user_state(rows)
        dense = tf.nn.log_softmax(model.dense_scores(state)).numpy()
        everything = np.tile(np.arange(1, ADS + 1), (2, 1))
        truth = model.sid_log_probs(state, everything).numpy() + 0.4 * dense
    finally:
        model.dense_weight.assign(1.0)
    beam = SidDecoder(model, beam_size=9).recommend(rows, 9).rows.numpy()
    for b in range(2):
        candidates = set(beam[b]) | set(np.argsort(-dense[b])[:6])
        want = sorted(candidates, key=lambda row: -truth[b, row])[:9]
        np.testing.assert_allclose(found.scores[b], truth[b, want], atol=1e-4)
        assert set(found.rows.numpy()[b]) == set(want)


def test_without_hybrid_no_vectors_are_held(model):
    small = SidDecoder(model, hybrid=False)
    rows = tf.constant([[5, 9, 2]])
    np.testing.assert_array_equal(
        small.recommend(rows, 5).rows, SidDecoder(model).recommend(rows, 5).rows
    )
    assert small.item_vectors is None
    for mode in ("hybrid", tf.constant([True])):
        with pytest.raises(ValueError, match="hybrid=False"):
            small.recommend(rows, 5, mode)


@pytest.mark.parametrize(
    ("index", "hybrid", "message"),
    [
        (BruteForce().index(np.eye(3)), True, "has 3 vectors"),
        (BruteForce(similarity="cosine").index(np.eye(ADS)), True, "similarity 'cosine'"),
        (BruteForce().index(np.eye(ADS), np.array(["a"] * ADS)), True, "returns string"),
        (BruteForce().index(np.eye(ADS)), False, "hybrid mode"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(model, index, hybrid, message):
    with pytest.raises(ValueError, match=message):
        SidDecoder(model, index=index, hybrid=hybrid)


def test_vectors_in_an_index_are_not_refreshed(model):
    with pytest.raises(RuntimeError, match="Build a new one"):
        SidDecoder(model, index=dense_index(model)).refresh()


@pytest.mark.parametrize("indexed", [False, True])
def test_where_no_ad_may_be_returned_no_score_is_nan(model, indexed):
    decoder = SidDecoder(model, index=dense_index(model) if indexed else None)
    decoder.trie.set_live(np.zeros(ADS, bool))
    found = decoder.recommend(tf.constant([[1, 2, 3]]), 3, "hybrid")
    assert found.count.numpy().tolist() == [0]
    assert found.rows.numpy().tolist() == [[-1, -1, -1]]
    assert np.isneginf(found.scores).all()


class Exported(tf.Module):
    """A decoder as a servable holds it."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], tf.int32, name="rows"),
            tf.TensorSpec([None], tf.bool, name="hybrid"),
        ],
        autograph=False,
    )
    def best(self, rows, hybrid):
        return self.decoder.recommend(rows, 5, hybrid, filter_seen=hybrid)._asdict()


def test_both_modes_and_the_index_are_served_from_one_graph_of_core_ops(model, tmp_path):
    index = Partitioned(k=5, num_partitions=4, num_partitions_to_search=4)
    index.index(np.asarray(model.item_vectors()))
    module = Exported(SidDecoder(model, beam_size=5, dense_candidates=6, index=index))
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.best})
    assert custom_ops(str(tmp_path)) == []
    request = {
        "rows": np.array([[5, 9, 2, 7], [5, 9, 2, 7], [7, 1, 0, 0]], np.int32),
        "hybrid": np.array([True, False, True]),
    }
    here = {name: value.numpy() for name, value in module.best(**request).items()}
    there = fresh_process.run(tmp_path, [("serving_default", request)])[0]
    np.testing.assert_array_equal(there["rows"], here["rows"])
    np.testing.assert_allclose(there["scores"], here["scores"], rtol=1e-4)
    assert (here["count"] == 5).all()
    # The seen filter is the hybrid rows' alone, as asked.
    assert not set(here["rows"][0]) & {4, 8, 1, 6}
