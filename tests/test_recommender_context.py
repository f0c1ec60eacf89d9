"""A recommender that reads the context learns from it, and does without where there is none."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sid_tfx.context import EventContext
from sid_tfx.datasets.batches import SequenceBatches
from sid_tfx.datasets.sequences import leave_one_out
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender
from sid_tfx.layers import ContextEmbedding
from sid_tfx.layers.history import pack_history
from sid_tfx.recommender import SidRecommender
from sid_tfx.refresh import refresh_recommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog

pytestmark = pytest.mark.unit

KINDS = ("click", "view")


def forks(users=250, length=7, seed=0):
    """After a click comes one ad, after a view another: the ad alone does not say which."""
    rng = np.random.default_rng(seed)
    after = np.stack([np.random.default_rng(i).permutation(ADS) for i in (7, 8)])
    rows = np.empty((users, length), int)
    kinds = rng.integers(0, 2, (users, length))
    rows[:, 0] = rng.integers(0, ADS, users)
    for t in range(1, length):
        rows[:, t] = after[kinds[:, t - 1], rows[:, t - 1]]
    user = np.repeat([f"u{i:04d}" for i in range(users)], length)
    times = np.tile(np.arange(1, length + 1), users)
    splits = leave_one_out(user, rows.ravel(), times, events=np.array(KINDS)[kinds.ravel()])
    return splits, after


@pytest.fixture(scope="module")
def catalog():
    return make_catalog()


@pytest.fixture(scope="module")
def trained(catalog):
    splits, after = forks()
    context = EventContext.of(splits.train, ["event"])
    model = SidRecommender.for_catalog(catalog, **SMALL, context=context)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    batches = SequenceBatches(splits.train.in_context(context), 12, 256)
    model.fit(batches, epochs=25, shuffle=False, verbose=0)
    return model, after


def ask(kind=None):
    """Every ad as a history of its own, after an event of this type."""
    rows = np.arange(1, ADS + 1, dtype=np.int32)[:, None]
    if kind is None:
        return rows
    return np.stack([rows, np.full_like(rows, 1 + KINDS.index(kind))], axis=-1)


def test_it_learns_what_the_event_type_says(trained):
    model, after = trained
    ranked = GenerativeRecommender(SidDecoder(model, beam_size=10), "hybrid")
    for kind, follows in zip(KINDS, after, strict=True):
        first = ranked.recommend(ask(kind), 1)[:, 0]
        assert (first == follows).mean() > 0.7, kind


def test_without_a_context_it_knows_both_ways_on(trained):
    model, after = trained
    both = GenerativeRecommender(SidDecoder(model, beam_size=10)).recommend(ask(), 2)
    found = [(both == follows[:, None]).any(axis=1).mean() for follows in after]
    assert min(found) > 0.6


def test_no_context_is_an_unknown_one_and_gaps_move_with_their_ads(trained):
    model = trained[0]
    rows = np.array([[5, 9, 2], [1, 0, 0]])
    unknown = np.stack([rows, np.zeros_like(rows)], axis=-1)
    np.testing.assert_array_equal(model.user_state(rows), model.user_state(unknown))
    left = np.array([[[5, 2], [9, 1], [0, 0], [0, 0]]])
    apart = np.array([[[0, 1], [5, 2], [0, 0], [9, 1]]])
    np.testing.assert_allclose(model.user_state(left), model.user_state(apart), atol=1e-6)
    assert pack_history(apart, 1).numpy().tolist() == [[[9, 1]]]


def test_seen_ads_are_left_out_whatever_their_context(trained):
    decoder = SidDecoder(trained[0], beam_size=ADS)
    histories = tf.constant([[[5, 1], [9, 2]]])
    found = decoder.recommend(histories, ADS, filter_seen=True)
    assert set(range(ADS)) - set(found.rows.numpy()[0].tolist()) == {4, 8}


@pytest.mark.parametrize("architecture", ["item_level", "flat", "tiger"])
def test_every_architecture_reads_it(catalog, architecture):
    model = SidRecommender.for_catalog(
        catalog, **SMALL, architecture=architecture, context=EventContext(time=True, weight=True)
    )
    histories = np.array([[[5, 0, 3], [9, 4, 1]]])
    other = np.array([[[5, 0, 3], [9, 9, 1]]])
    one, two = (model.dense_query(model.user_state(h)) for h in (histories, other))
    assert np.abs(one - two).max() > 1e-4
    targets = np.array([3]) if model.one_target else None
    loss = model.compute_loss(x=histories, y=targets, y_pred=model(histories, training=True))
    assert np.isfinite(float(loss))


def test_a_context_of_another_width_is_refused(catalog):
    model = SidRecommender.for_catalog(catalog, **SMALL)
    with pytest.raises(ValueError, match="1 context ids beside each row, this recommender reads 0"):
        model.user_state(np.array([[[5, 1]]]))
    with pytest.raises(ValueError, match="context_dropout"):
        SidRecommender.for_catalog(catalog, **SMALL, context_dropout=1.0)


def test_without_a_context_the_weights_are_those_of_before(catalog):
    plain = SidRecommender.for_catalog(catalog, **SMALL)
    reading = SidRecommender.for_catalog(catalog, **SMALL, context={"time": True})
    assert len(reading.weights) == len(plain.weights) + 1
    before = {weight.path.partition("/")[2]: weight for weight in plain.weights}
    for weight in reading.weights:
        path = weight.path.partition("/")[2]
        if "context" not in path:
            np.testing.assert_array_equal(weight, before[path])


def test_files_and_refreshes_keep_it(trained, catalog, tmp_path):
    model = trained[0]
    model.save(tmp_path / "model.keras")
    back = keras.saving.load_model(tmp_path / "model.keras")
    assert back.context == model.context == EventContext(events=KINDS)
    np.testing.assert_allclose(back.user_state(ask("view")), model.user_state(ask("view")))
    grown = catalog.extend(["zz"], [[1, 1]], np.ones((1, 8)))
    refreshed = refresh_recommender(model, catalog, grown)
    np.testing.assert_allclose(
        refreshed.user_state(ask("view")), model.user_state(ask("view")), atol=1e-5
    )


def test_context_dropout_takes_all_of_a_history_or_a_field():
    layer = ContextEmbedding((4, 4), 2, dropout=0.5, seed=1)
    layer.build((None, None, 2))
    # An id shows as itself: field 0 in the first number, field 1 in the second.
    for field, table in enumerate(layer.tables):
        table.embeddings.assign(np.outer(np.arange(4), np.eye(2)[field]))
    ids = np.tile([[3, 2], [1, 1]], (4000, 1, 1))
    got = np.asarray(layer(ids, training=True))
    kept = got > 0
    assert (kept[:, 0] == kept[:, 1]).all(), "all ads of a history alike"
    np.testing.assert_allclose(kept[:, 0].mean(axis=0), 0.25, atol=0.03)
    np.testing.assert_allclose(kept[:, 0].all(axis=1).mean(), 0.125, atol=0.03)
    np.testing.assert_array_equal(layer(ids), ids)
    np.testing.assert_array_equal(got[kept], ids[kept])
