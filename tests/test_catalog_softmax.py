"""Probabilities are spread over the ads of the catalogue, in training as in decoding."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.architectures import ARCHITECTURES
from sid_tfx.decoder import SidDecoder
from sid_tfx.layers import CatalogSoftmax
from sid_tfx.recommender import SidRecommender
from tests.recommender_fixtures import ADS, SMALL, make_catalog

pytestmark = pytest.mark.unit

HISTORIES = np.array([[5, 9, 2, 7, 0], [1, 0, 0, 0, 0]], np.int32)
EVERY_AD = np.tile(np.arange(1, ADS + 1), (2, 1))


def plain_losses(codes, logits, rows, smoothing):
    """An oracle: per target and level, look up which codes the ads with its prefix have."""
    losses = []
    for position, row in enumerate(rows):
        total = 0.0
        for level, level_logits in enumerate(logits):
            same = (codes[:, :level] == codes[row, :level]).all(axis=1)
            there = level_logits[position][np.unique(codes[same, level])].astype(float)
            log_total = np.log(np.exp(there).sum())
            own = log_total - level_logits[position][codes[row, level]]
            total += (1 - smoothing) * own + smoothing * (log_total - there).mean()
        losses.append(total)
    return np.array(losses)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    ads=st.integers(1, 30),
    smoothing=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 1000),
)
def test_losses_equal_a_plain_reckoning(sizes, ads, smoothing, seed):
    rng = np.random.default_rng(seed)
    codes = np.unique(rng.integers(0, sizes, (ads, len(sizes))), axis=0)
    softmax = CatalogSoftmax(len(codes), sizes)
    softmax.set_codes(codes)
    rows = rng.integers(0, len(codes), 5)
    logits = [rng.normal(size=(5, size)).astype(np.float32) for size in sizes]
    got = softmax.losses(logits, codes[rows], rows + 1, smoothing)
    np.testing.assert_allclose(got, plain_losses(codes, logits, rows, smoothing), atol=1e-5)


def test_a_code_without_alternative_costs_nothing_and_moves_nothing():
    softmax = CatalogSoftmax(2, (4, 4))
    softmax.set_codes(np.array([[0, 1], [2, 3]]))
    logits = tf.Variable(np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32))
    with tf.GradientTape() as tape:
        masked = softmax.mask(1, logits, np.array([2]))
        loss = tf.reduce_logsumexp(masked) - masked[0, 3]
    assert float(loss) == 0
    np.testing.assert_array_equal(tape.gradient(loss, logits), np.zeros((1, 4)))


def test_padding_has_a_finite_loss_and_gradient():
    softmax = CatalogSoftmax(2, (4, 4))
    softmax.set_codes(np.array([[1, 1], [2, 3]]))
    logits = [tf.Variable(tf.zeros((1, 4))) for _ in range(2)]
    with tf.GradientTape() as tape:
        codes = np.zeros((1, 2), int)
        loss = 0.0 * tf.reduce_sum(softmax.losses(logits, codes, np.array([0]), 0.1))
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(loss, logits))


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_training_and_decoding_give_the_ads_the_same_probabilities(architecture):
    model = SidRecommender.for_catalog(
        make_catalog(),
        **SMALL,
        architecture=architecture,
        dense_loss_weight=0.0,
        label_smoothing=0.0,
        seed=3,
    )
    log_probs = np.asarray(model.sid_log_probs(model.user_state(HISTORIES), EVERY_AD))
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-5)

    found = SidDecoder(model, beam_size=ADS).recommend(tf.constant(HISTORIES), ADS)
    np.testing.assert_allclose(found.scores, -np.sort(-log_probs, axis=1), atol=1e-4)

    x, y = (HISTORIES[:1, :4], np.array([8])) if model.one_target else (HISTORIES[:1, :2], None)
    loss = model.compute_loss(x=x, y=y, y_pred=model(x), training=False)
    want = log_probs[0, 7]
    if not model.one_target:
        state = model.user_state(HISTORIES[:1, :1])
        want = np.asarray(model.sid_log_probs(state, HISTORIES[:1, 1:2]))[0, 0]
    assert float(loss) == pytest.approx(-want, rel=1e-4)


def test_excluded_ads_change_no_other_score():
    model = SidRecommender.for_catalog(make_catalog(), **SMALL)
    decoder = SidDecoder(model, beam_size=ADS)
    scores = np.asarray(model.sid_log_probs(model.user_state(HISTORIES[:1]), EVERY_AD[:1]))[0]
    excluded = tf.range(0, ADS, 3)[None]
    decoder.trie.set_live(np.arange(ADS) % 5 > 0)
    found = decoder.recommend(HISTORIES[:1], ADS, excluded_rows=excluded)
    rows = found.rows.numpy()[0, : int(found.count[0])]
    assert set(rows) == {row for row in range(ADS) if row % 3 and row % 5}
    np.testing.assert_allclose(found.scores.numpy()[0, : len(rows)], scores[rows], atol=1e-4)


def test_it_can_be_left_out_and_comes_back_from_a_file(tmp_path):
    plain = SidRecommender.for_catalog(make_catalog(), **SMALL, catalog_softmax=False)
    log_probs = plain.sid_log_probs(plain.user_state(HISTORIES), EVERY_AD)
    assert (np.exp(log_probs).sum(axis=1) < 0.9).all()

    model = SidRecommender.for_catalog(make_catalog(), **SMALL)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    want = model.sid_log_probs(model.user_state(HISTORIES), EVERY_AD)
    got = loaded.sid_log_probs(loaded.user_state(HISTORIES), EVERY_AD)
    np.testing.assert_allclose(got, want, atol=1e-6)
