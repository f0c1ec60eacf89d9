import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from sid_tfx.dense import FlatDense
from sid_tfx.embedding import DenseGradientEmbedding
from sid_tfx.transformer import SeededLayers, join_heads, split_heads
from tests.embedding_values import IDS, clipped_step

pytestmark = pytest.mark.unit


def test_the_norm_that_is_clipped_is_that_of_the_summed_gradient():
    gradient = np.zeros([4, 2])
    np.add.at(gradient, IDS[0], 1.0)
    np.testing.assert_allclose(clipped_step(100.0), -gradient)
    np.testing.assert_allclose(clipped_step(0.5), -0.5 * gradient / np.linalg.norm(gradient))


def test_it_looks_up_what_keras_does_and_survives_its_config():
    layer = SeededLayers(3).embedding(10, 4, name="words")
    assert isinstance(layer, DenseGradientEmbedding)
    vectors = ops.convert_to_numpy(layer(IDS))
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(layer.embeddings)[IDS])
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(layer(IDS, training=True)))
    again = DenseGradientEmbedding.from_config(layer.get_config())
    np.testing.assert_array_equal(vectors, ops.convert_to_numpy(again(IDS)))


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (2, 2, 3, 5)])
def test_a_flat_dense_layer_gives_what_keras_dense_gives(shape):
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=shape).astype(np.float32))
    layers = [kind(4, activation="relu") for kind in (FlatDense, keras.layers.Dense)]
    results = []
    for layer in layers:
        layer.build(shape)
        layer.set_weights([rng_weights(w.shape) for w in layer.weights])
        with tf.GradientTape() as tape:
            outputs = layer(inputs)
            loss = tf.reduce_sum(outputs**2)
        results.append([outputs, *tape.gradient(loss, layer.trainable_weights)])
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def rng_weights(shape):
    return np.random.default_rng(1).normal(size=shape)


def test_heads_are_a_reshape_and_a_transposition():
    tokens = np.random.default_rng(0).normal(size=(2, 3, 8))
    want = tokens.reshape(2, 3, 4, 2).transpose(0, 2, 1, 3)
    split = split_heads(tf.constant(tokens), 4)
    np.testing.assert_array_equal(split, want)
    np.testing.assert_array_equal(join_heads(split), tokens)
