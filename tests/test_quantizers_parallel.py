import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sid_tfx.losses.reconstruction import CodebookCommitment
from sid_tfx.quantizers import ParallelQuantizer
from tests.quantizer_fixtures import model_around

pytestmark = pytest.mark.unit


def logits(rows=20, levels=3, size=4, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, levels * size)).astype("float32")


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(2, 9))
def test_codes_are_the_argmax_of_each_level(seed, levels, size):
    values = logits(20, levels, size, seed)
    quantizer = ParallelQuantizer(levels, size, 5, seed=seed)
    out = quantizer(values)
    np.testing.assert_array_equal(out.codes, values.reshape(20, levels, size).argmax(-1))
    tables = np.asarray(quantizer.tables)
    read = sum(tables[level][np.asarray(out.codes)[:, level]] for level in range(levels))
    np.testing.assert_allclose(out.quantized, read, atol=1e-5)
    np.testing.assert_allclose(quantizer.decode(out.codes), read, atol=1e-5)
    np.testing.assert_array_equal(out.residual_norms, np.zeros((20, levels + 1)))


def test_gradients_reach_the_tables_and_never_the_logits():
    quantizer = ParallelQuantizer(3, 4, 5)
    x = tf.Variable(logits())
    with tf.GradientTape() as tape:
        out = quantizer(x, training=True)
        value = tf.reduce_sum(tf.square(out.quantized - 1.0))
        value += CodebookCommitment()(out.inputs, out.vectors)
    at_logits, at_tables = tape.gradient(value, [x, quantizer.tables.value])
    assert at_logits is None
    used = np.zeros((3, 4), bool)
    used[np.arange(3), np.asarray(out.codes)] = True
    np.testing.assert_array_equal(np.abs(tf.convert_to_tensor(at_tables)).max(-1) > 0, used)
    assert float(CodebookCommitment()(out.inputs, out.vectors)) == 0.0


def test_ranked_codes_are_all_tuples_by_probability():
    quantizer = ParallelQuantizer(3, 4, 5)
    values = logits(6)
    ranked = np.asarray(quantizer.ranked_codes(values, 64))
    np.testing.assert_array_equal(ranked[:, 0], quantizer(values).codes)
    tuples = np.array(list(itertools.product(range(4), repeat=3)))
    parts = values.reshape(6, 3, 4)
    log_probs = parts - np.log(np.exp(parts).sum(-1, keepdims=True))
    scores = log_probs[:, np.arange(3), tuples].sum(-1)
    for row, score, logp in zip(ranked, scores, log_probs, strict=True):
        assert len(np.unique(row, axis=0)) == 64
        found = logp[np.arange(3), row].sum(-1)
        np.testing.assert_allclose(found, np.sort(score)[::-1], atol=1e-5)
    np.testing.assert_array_equal(quantizer.ranked_codes(values, 9), ranked[:, :9])
    with pytest.raises(ValueError, match=r"\[1, 4\^3\], got 65"):
        quantizer.ranked_codes(values, 65)


def test_initialize_marks_it_and_revival_does_nothing():
    quantizer = ParallelQuantizer(3, 4, 5)
    assert float(quantizer.initialized) == 0.0
    quantizer(logits(), training=True)
    quantizer.initialize(logits())
    assert float(quantizer.initialized) == 1.0
    np.testing.assert_array_equal(quantizer.usage, np.ones((3, 4)))
    assert quantizer.revive(threshold=0.9) == 0


def test_keras_file_round_trip(tmp_path):
    quantizer = ParallelQuantizer(3, 4, 5, seed=2, usage_momentum=0.5)
    quantizer(logits(), training=True)
    model = model_around(quantizer, 12)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.layers[-1].get_config() == quantizer.get_config()
    np.testing.assert_array_equal(copy.layers[-1].usage, quantizer.usage)
    for loaded, saved in zip(copy(logits()), model(logits()), strict=True):
        np.testing.assert_array_equal(loaded, saved)


def test_options_of_codebooks_are_refused():
    with pytest.raises(ValueError, match=r"ParallelQuantizer.*gradient"):
        ParallelQuantizer(3, 4, 5, gradient="rotation")
