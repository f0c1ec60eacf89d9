"""The softmax over a table's rows against a plain reckoning, and its gradient."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.cross_entropy import cross_entropy, table_cross_entropy

pytestmark = pytest.mark.unit


def plain(queries, table, rows):
    """float64 `[P]`: the padding of row 0 is no class."""
    scores = queries.astype(np.float64) @ table[1:].astype(np.float64).T
    top = scores.max(axis=1, keepdims=True)
    log_total = top[:, 0] + np.log(np.exp(scores - top).sum(axis=1))
    return log_total - (queries.astype(np.float64) * table[rows]).sum(axis=1)


@settings(max_examples=30, deadline=None)
@given(
    ads=st.integers(1, 30),
    targets=st.integers(1, 8),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_loss_equals_a_plain_reckoning(ads, targets, scale, seed):
    rng = np.random.default_rng(seed)
    queries = (scale * rng.normal(size=(targets, 5))).astype(np.float32)
    table = rng.normal(size=(ads + 1, 5)).astype(np.float32)
    # However well the padding fits, it takes no probability.
    table[0] *= 100
    rows = rng.integers(1, ads + 1, targets)
    found = table_cross_entropy(queries, table, rows).numpy()
    np.testing.assert_allclose(found, plain(queries, table, rows), rtol=1e-4, atol=1e-4 * scale)


def test_gradients_are_those_of_cross_entropy_over_the_scores():
    rng = np.random.default_rng(0)
    queries = tf.Variable(rng.normal(size=(6, 4)).astype(np.float32))
    table = tf.Variable(rng.normal(size=(9, 4)).astype(np.float32))
    rows = np.array([1, 8, 3, 3, 1, 5])
    with tf.GradientTape(persistent=True) as tape:
        ours = tf.reduce_sum(table_cross_entropy(queries, table, rows))
        scores = tf.matmul(queries, table[1:], transpose_b=True)
        theirs = tf.reduce_sum(cross_entropy(scores, rows - 1))
    for weights in (queries, table):
        got, want = (tape.gradient(loss, weights) for loss in (ours, theirs))
        # Rows would be clipped to another length than their sum.
        assert isinstance(got, tf.Tensor)
        np.testing.assert_allclose(got, tf.convert_to_tensor(want), atol=1e-5)
    assert not tape.gradient(ours, table)[0].numpy().any()


def test_smoothing_is_spread_over_all_classes():
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    labels = np.array([0, 3, 1])
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = np.full((3, 4), 0.1 / 4)
    wanted[np.arange(3), labels] += 0.9
    found = cross_entropy(logits, labels, smoothing=0.1)
    np.testing.assert_allclose(found, -(wanted * log_probs).sum(axis=1), rtol=1e-5)
