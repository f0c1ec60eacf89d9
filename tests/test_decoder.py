"""The decoder over models that are not the item-level recommender."""

import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.catalog import SidCatalog
from sid_tfx.decoder import Cached, SidDecoder
from sid_tfx.recommender import SidRecommender

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
    assert not isinstance(model, Cached)
    rows = tf.constant([[1, 2, 3], [9, 0, 0]])
    want = SidDecoder(model, beam_size=7).recommend(rows, 7, filter_seen=True)
    got = SidDecoder(cached, beam_size=7).recommend(rows, 7, filter_seen=True)
    np.testing.assert_array_equal(got.rows, want.rows)
    np.testing.assert_allclose(got.scores, want.scores, rtol=1e-6)
