"""A trained recommender on a changed catalogue: known ads as before, new ads within reach."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.catalog import SidCatalog
from sid_tfx.decoder import SidDecoder
from sid_tfx.recommender import SidRecommender
from sid_tfx.refresh import refresh_recommender

pytestmark = pytest.mark.unit

ADS, CODES = 40, 5
SMALL = {"hidden_size": 16, "num_heads": 2, "mlp_size": 32, "head_size": 16, "max_history": 8}
# Between known ids, before and after all of them: every row moves.
NEW = ["ad000a", "ad017b", "zz", "a"]


@pytest.fixture(scope="module")
def catalog():
    rng = np.random.default_rng(0)
    ids = [f"ad{i:03d}" for i in range(ADS)]
    codes = rng.integers(0, CODES, (ADS, 2))
    return SidCatalog.build(ids, codes, rng.normal(size=(ADS, 8)), CODES, max_dedup=16)


@pytest.fixture(scope="module")
def grown(catalog):
    rng = np.random.default_rng(1)
    # Embeddings ten times as long would move the scale of the content table.
    return catalog.extend(NEW, rng.integers(0, CODES, (4, 2)), 10 * rng.normal(size=(4, 8)))


@pytest.fixture(scope="module", params=[True, False], ids=["id vectors", "no id vectors"])
def trained(request, catalog):
    model = SidRecommender.for_catalog(catalog, id_embedding=request.param, **SMALL)
    model.compile(keras.optimizers.Adam(1e-2))
    histories = np.random.default_rng(2).integers(1, ADS + 1, (64, 8))
    model.fit(histories, epochs=2, verbose=0)
    model.dense_weight.assign(0.3)
    return model


def _histories(catalog, ids):
    return catalog.rows(np.asarray(ids)) + 1


def test_a_history_of_known_ads_gives_the_same_state(trained, catalog, grown):
    kept = grown.keep([ad for ad in grown.ad_ids if ad != "ad005"])
    ids = np.random.default_rng(3).choice(catalog.ad_ids[10:], (6, 8))
    expected = trained.user_state(_histories(catalog, ids))
    for changed in (grown, kept):
        refreshed = refresh_recommender(trained, catalog, changed)
        state = refreshed.user_state(_histories(changed, ids))
        np.testing.assert_allclose(state, expected, atol=1e-6)
        assert float(refreshed.dense_weight) == pytest.approx(0.3)
        known = _histories(changed, ids[0])
        np.testing.assert_allclose(
            np.asarray(refreshed.item_vectors())[known - 1],
            np.asarray(trained.item_vectors())[_histories(catalog, ids[0]) - 1],
            atol=1e-6,
        )


def test_the_beam_reaches_every_new_ad_in_both_modes(trained, catalog, grown):
    refreshed = refresh_recommender(trained, catalog, grown)
    decoder = SidDecoder(refreshed, beam_size=len(grown), dense_candidates=len(grown))
    history = tf.constant(_histories(grown, [["ad003", "zz", "ad011"]]), tf.int32)
    for mode in ("generative", "hybrid"):
        rows = decoder.recommend(history, k=len(grown), mode=mode).rows.numpy()[0]
        assert sorted(rows) == list(range(len(grown)))


def test_a_new_ad_is_known_by_codes_and_content_at_the_scale_of_training(trained, catalog, grown):
    refreshed = refresh_recommender(trained, catalog, grown)
    rows = _histories(grown, NEW)
    rms = np.sqrt(np.mean(np.square(catalog.embeddings)))
    content = np.asarray(refreshed.ad_content)[rows]
    np.testing.assert_allclose(content, grown.embeddings[rows - 1] / rms, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(refreshed.ad_codes)[rows], grown.full_codes[rows - 1])
    if refreshed.id_vectors is not None:
        assert not np.asarray(refreshed.id_vectors)[rows].any()


def test_refreshing_twice_is_refreshing_once(trained, catalog, grown):
    rng = np.random.default_rng(4)
    twice = grown.extend(["later"], rng.integers(0, CODES, (1, 2)), rng.normal(size=(1, 8)))
    step = refresh_recommender(refresh_recommender(trained, catalog, grown), grown, twice)
    once = refresh_recommender(trained, catalog, twice)
    for a, b in zip(step.weights, once.weights, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)


def test_another_catalogue_is_refused(trained, catalog, grown):
    with pytest.raises(ValueError, match="is not of the catalogue"):
        refresh_recommender(trained, grown, grown)
    codes = (catalog.codes + 1) % CODES
    moved = SidCatalog.build(catalog.ad_ids, codes, catalog.embeddings, CODES, max_dedup=16)
    with pytest.raises(ValueError, match="known ads have other codes"):
        refresh_recommender(trained, catalog, moved)


def test_kept_ads_keep_codes_and_tokens(catalog):
    wanted = [*catalog.ad_ids[5:20][::-1], "unknown"]
    kept = catalog.keep(wanted)
    np.testing.assert_array_equal(kept.ad_ids, catalog.ad_ids[5:20])
    np.testing.assert_array_equal(kept.full_codes, catalog.full_codes[5:20])
    np.testing.assert_array_equal(kept.embeddings, catalog.embeddings[5:20])
    assert kept.dedup_size == catalog.dedup_size
    assert kept.quality["ads"] == 15
    assert kept.fingerprint != catalog.fingerprint
    assert catalog.keep(catalog.ad_ids).fingerprint == catalog.fingerprint
    with pytest.raises(ValueError, match="none of the 1 ads"):
        catalog.keep(["unknown"])
